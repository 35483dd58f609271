"""Pixel sizes: where they are stated, which statement is used, and resampling to another one."""
