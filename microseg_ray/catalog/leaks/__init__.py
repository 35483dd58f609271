"""The leak audit: equal, mirrored, rotated and nearly equal micrographs in different splits."""
