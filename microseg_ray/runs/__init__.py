"""A run: one segmentation of one archive by one model with one set of settings. Nothing here imports Ray."""
