"""Files: whole-or-absent writes and the lock of a folder."""
