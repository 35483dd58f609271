"""Truth against predictions: the evaluate job and its metrics."""
