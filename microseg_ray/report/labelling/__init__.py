"""The labelling loop: which places are most worth labelling, learning from what was painted, and what it changed."""
