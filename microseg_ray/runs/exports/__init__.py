"""The masks of a run in other programs' formats."""
