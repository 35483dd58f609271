"""Which micrographs a job works on, which mask belongs to each, which split each is in, and whether splits leak.

Pairing, grouping and splitting look at names alone, or at a table. What cannot be used becomes a `Failure`, and the rest
goes on.
"""

from microseg_ray.catalog.build import build_catalog, count_mask
from microseg_ray.catalog.division import Divided, divide, region_box, symmetry_of
from microseg_ray.catalog.leaks.audit import Leak, find_leaks, reduce_micrograph, write_leaks
from microseg_ray.catalog.leaks.reduced import Reduced, Reducer
from microseg_ray.catalog.lists import read_list, rows_of_lists
from microseg_ray.catalog.rows import Catalog, CatalogRow, relative_name
from microseg_ray.catalog.splits import class_share_error
from microseg_ray.catalog.table import read_table, write_catalog

__all__ = [
    "Catalog",
    "CatalogRow",
    "Divided",
    "Leak",
    "Reduced",
    "Reducer",
    "build_catalog",
    "class_share_error",
    "count_mask",
    "divide",
    "find_leaks",
    "read_list",
    "read_table",
    "reduce_micrograph",
    "region_box",
    "relative_name",
    "rows_of_lists",
    "symmetry_of",
    "write_catalog",
    "write_leaks",
]
