"""Statistics of masks and counts: pure functions, no model, no Ray."""
