"""Readers of image files, one module per family of formats."""
