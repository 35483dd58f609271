"""Files: writes that are whole or absent, places in folders and object stores, and the lock of an output."""

from microseg_ray.files.kept import content_of
from microseg_ray.files.objects import ObjectPath
from microseg_ray.files.places import (
    BOOKS,
    EPOCH_FILE,
    LOCK_FILE,
    Place,
    Where,
    absolute_text,
    children,
    lies_in,
    local_folder,
    name_below,
    place,
)
from microseg_ray.files.writing import (
    delete_empty_folder,
    delete_file,
    delete_folder,
    is_partial,
    move,
    rotate,
    sole_writer,
    sync,
    whole,
    whole_folder,
    write_json,
    write_text,
)

__all__ = [
    "BOOKS",
    "EPOCH_FILE",
    "LOCK_FILE",
    "ObjectPath",
    "Place",
    "Where",
    "absolute_text",
    "children",
    "content_of",
    "delete_empty_folder",
    "delete_file",
    "delete_folder",
    "is_partial",
    "lies_in",
    "local_folder",
    "move",
    "name_below",
    "place",
    "rotate",
    "sole_writer",
    "sync",
    "whole",
    "whole_folder",
    "write_json",
    "write_text",
]
