"""A recipe of training from the data: `facts` reads a tile store, `rules` chooses, `writing` makes the config."""
