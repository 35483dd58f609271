"""The mask of one micrograph on disk: an OME-Zarr label image, its ledger of counts and its pyramid."""
