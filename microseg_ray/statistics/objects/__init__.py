"""Objects: connected components of each class, those of the whole mask, found block by block."""
