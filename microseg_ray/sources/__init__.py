"""What a micrograph is to the rest of the engine: a shape, a dtype, a pixel size, and regions that can be read.

Local files and folders only: TIFF, PNG, JPEG and zarr, told apart by their content and not by their suffix. Every
problem of a file is an `InputError` that names the file, the reason and what to do.
"""

from microseg_ray.sources.base import Micrograph, MicrographInfo
from microseg_ray.sources.flat_field import open_prepared
from microseg_ray.sources.intensity import intensity_limits
from microseg_ray.sources.listing import SUFFIXES, fingerprint, list_files, listing_root
from microseg_ray.sources.masks import read_mask
from microseg_ray.sources.opening import open_micrograph

__all__ = [
    "SUFFIXES",
    "Micrograph",
    "MicrographInfo",
    "fingerprint",
    "intensity_limits",
    "list_files",
    "listing_root",
    "open_micrograph",
    "open_prepared",
    "read_mask",
]
