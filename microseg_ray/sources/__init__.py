"""Micrographs: a shape, a dtype, a pixel size, and regions that can be read.

Reads local and remote files and folders of the formats in docs/formats.md, recognised by their content and not by their
suffix. Every problem of a file is an `InputError` that names the file, the reason and what to do.
"""

from microseg_ray.sources.base import Micrograph
from microseg_ray.sources.info import MicrographInfo
from microseg_ray.sources.listing import (
    SUFFIXES,
    Listing,
    fingerprint,
    list_files,
    listing_root,
    member_path,
    root_of,
    survey_files,
    survey_inputs,
)
from microseg_ray.sources.masks import read_mask
from microseg_ray.sources.opening import open_micrograph
from microseg_ray.sources.preparing import View, open_prepared, open_view, prepared
from microseg_ray.sources.scale.rule import ScaleRule
from microseg_ray.sources.specimen.intensity import intensity_limits
from microseg_ray.sources.specimen.profile import IntensityProfile

__all__ = [
    "SUFFIXES",
    "IntensityProfile",
    "Listing",
    "Micrograph",
    "MicrographInfo",
    "ScaleRule",
    "View",
    "fingerprint",
    "intensity_limits",
    "list_files",
    "listing_root",
    "member_path",
    "open_micrograph",
    "open_prepared",
    "open_view",
    "prepared",
    "read_mask",
    "root_of",
    "survey_files",
    "survey_inputs",
]
