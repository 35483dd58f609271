"""The tile store for training: survey, write, append, read."""
