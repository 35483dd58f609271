"""Electron microscopes' own formats through rosettasciio: Gatan DM3 and DM4, EMD (Velox, NCEM), FEI SER."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_chunk, bound_decoded, bound_shape
from microseg_ray.sources.choices import RGB, Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.extras import required
from microseg_ray.sources.remote import is_url, scratch_copy
from microseg_ray.sources.scale.pixel_size import PixelSize, believable, micrometres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["RosettaPixels"]

_ENERGIES = frozenset({"eV", "keV"})
_HAADF = "HAADF"
_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru "
    "Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At "
    "Rn Fr Ra Ac Th Pa U Np Pu Am Cm"
)
_ELEMENTS = frozenset(_SYMBOLS.split())


@dataclass(frozen=True)
class _Page:
    """One 2D image of a file: the array that holds it, its place in it, which axes are y and x, their scales, its name."""

    array: Any
    place: tuple[int, ...]
    yx: tuple[int, int]
    axes: tuple[Any, Any]
    name: str = ""

    @property
    def mirrored(self) -> tuple[int, int]:
        """The step along y and x that follows the axis: -1 where its scale is negative."""
        down, right = (-1 if float(axis.get("scale") or 0) < 0 else 1 for axis in self.axes)
        return down, right


class RosettaPixels:
    """An image of an electron microscope's file.

    Every 2D image is a page: frames, tilts, scan positions and detectors each by itself; spectra are left out.

    Args:
        path: The file; a URL is copied first, because the library wants a path.
        wanted: Page and channel.
        kind: The format.

    Raises:
        InputError: Damaged, truncated, without an image, or rosettasciio is not installed.
    """

    def __init__(self, path: str, wanted: Wanted, kind: Format) -> None:
        self.format: Format = kind
        self._path, self._lock = path, threading.Lock()
        with contextlib.ExitStack() as stack:
            local = stack.enter_context(scratch_copy(path, f".{kind}")) if is_url(path) else path
            signals, self.lazy = _load(path, local, kind)
            stack.callback(_close_files, signals)
            pages = _ordered(list(_pages(signals)))
            spectra = [signal for signal in signals if _is_spectrum(signal)]
            if not pages:
                raise _no_image(path, kind, spectra)
            index = pick_page(path, wanted, len(pages))
            self._page = pages[index]
            names = tuple(page.name for page in pages) if len({page.name for page in pages}) == len(pages) > 1 else ()
            self._read_header(index, len(pages), wanted, names)
            self.notes = (f"{len(spectra)} spectra or spectrum images of the file are not taken",) if spectra else ()
            down, right = self._page.mirrored
            if -1 in {down, right}:
                self.notes = (
                    *self.notes,
                    "an axis has a negative step: read along the axis, mirrored against the file",
                )
            self.pixel_size = _pixel_size(self._page, kind)
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels (channels, y, x)."""
        page = self._page
        index: list[Any] = list(page.place)
        parts = [
            _mirrored(part, *way)
            for part, way in zip(box.slices, zip(self.shape, page.mirrored, strict=True), strict=True)
        ]
        for axis, part in sorted(zip(page.yx, parts, strict=True), key=lambda pair: pair[0]):
            index.insert(axis, part)
        with self._lock, _quiet():
            part = page.array[tuple(index)]
            pixels = np.asarray(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)
        if page.yx[0] > page.yx[1]:
            pixels = pixels.T
        pixels = pixels[:: page.mirrored[0], :: page.mirrored[1]]
        if pixels.dtype.names is None:
            return pixels[None]
        return np.stack([pixels[name] for name in ("R", "G", "B")[self._chosen]])

    def close(self) -> None:
        """Let go of the file."""
        self._page = _Page(None, (), (0, 1), ({}, {}))
        self._stack.close()

    def _read_header(self, index: int, pages: int, wanted: Wanted, page_names: tuple[str, ...]) -> None:
        array, yx = self._page.array, self._page.yx
        self.shape = (int(array.shape[yx[0]]), int(array.shape[yx[1]]))
        bound_shape(self._path, self.shape)
        colour = array.dtype.names is not None
        if colour and not {"R", "G", "B"} <= set(array.dtype.names):
            raise InputError(self._path, f"pixels are {array.dtype}", "export the image as TIFF")
        names = RGB if colour else ("gray",)
        self._chosen, channel = pick_channels(self._path, wanted, names)
        self.channels = self._chosen.stop - self._chosen.start
        self.dtype = np.dtype(np.uint8) if colour else np.dtype(array.dtype)
        self.parts = Parts(index, pages, channel, names, page_names)
        if not self.lazy:
            self.decoded_bytes = int(array.nbytes)
            bound_decoded(self._path, self.decoded_bytes, f"a {self.format.upper()}")
            return
        # Plain numbers are mapped; HDF5 is read by chunk.
        chunk = math.prod(max(sizes) for sizes in array.chunks) * self.dtype.itemsize if self.format == "emd" else 0
        self.decoded_bytes = chunk
        bound_chunk(self._path, chunk, "one chunk", "export the image as tiled TIFF")


def _load(path: str, local: str, kind: Format) -> tuple[Sequence[dict[str, Any]], bool]:
    """What rosettasciio reads, and whether its arrays are lazy."""
    with _quiet():
        match kind:
            case "ser":
                # The package's own entry point goes by the suffix.
                reader = required(path, "SER", "rsciio.tia._api", "em")
                return reader.ser_reader(local, lazy=False), False
            case "emd":
                library: Any = required(path, "EMD", "h5py", "em")
                with library.File(local, "r") as file:
                    if "Data/SpectrumImage" in file:
                        required(path, "EMD with a spectrum image", "sparse", "em")
                reader = required(path, "EMD", "rsciio.emd", "em")
                return reader.file_reader(local, lazy=True, select_type="images"), True
            case _:
                reader = required(path, kind.upper(), "rsciio.digitalmicrograph", "em")
                try:
                    return reader.file_reader(local, lazy=True), True
                except ValueError as error:
                    if "RGBA" not in str(error):
                        raise
                    return reader.file_reader(local, lazy=False), False


def _close_files(signals: Sequence[dict[str, Any]]) -> None:
    """Close the HDF5 files behind lazy arrays: rosettasciio leaves them open, held by reference cycles.

    A garbage collection would do it too, but takes as long as the process has objects: seconds in a large one.
    """
    for signal in signals:
        for part in getattr(signal["data"], "dask", {}).values():
            # Datasets of one file are closed together: the others are then not valid any more.
            if getattr(getattr(part, "id", None), "valid", False):
                part.file.close()


def _pages(signals: Sequence[dict[str, Any]]) -> Any:
    """The 2D images of the signals, in the order of the file."""
    for signal in signals:
        array, axes = signal["data"], signal["axes"]
        spatial = [place for place, axis in enumerate(axes) if not axis.get("navigate", False)]
        if len(spatial) == 1 or array.ndim < 2 or array.ndim != len(axes) or _is_spectrum(signal):
            continue
        y, x = spatial if len(spatial) == 2 else (array.ndim - 2, array.ndim - 1)
        # NCEM's EMD is written with the axes in either order: their names tell.
        if (_name(axes[y])[:1], _name(axes[x])[:1]) == ("x", "y"):
            y, x = x, y
        name = str(signal.get("metadata", {}).get("General", {}).get("title") or "")
        others = [range(size) for place, size in enumerate(array.shape) if place not in {y, x}]
        for place in itertools.product(*others):
            yield _Page(array, place, (y, x), (axes[y], axes[x]), name)


def _name(axis: Any) -> str:
    return str(axis.get("name") or "").strip().casefold()


def _mirrored(part: slice, length: int, way: int) -> slice:
    """The stored part of an axis that is read from its end."""
    return part if way > 0 else slice(length - part.stop, length - part.start)


def _is_spectrum(signal: dict[str, Any]) -> bool:
    """Whether a signal has an axis of energies: a spectrum, or one for each place of a map."""
    energies = any(str(axis.get("units") or "").strip() in _ENERGIES for axis in signal["axes"])
    kind = str(signal.get("metadata", {}).get("Signal", {}).get("signal_type") or "")
    return energies or (kind.startswith(("EELS", "EDS")) and len(signal["axes"]) > 2)


def _ordered(pages: list[_Page]) -> list[_Page]:
    """Where maps of elements lie beside images of detectors, the images first and of these HAADF; else as in the file."""
    if not any(page.name in _ELEMENTS for page in pages):
        return pages
    return sorted(pages, key=lambda page: 0 if page.name.startswith(_HAADF) else 1 + (page.name in _ELEMENTS))


def _no_image(path: str, kind: Format, spectra: Sequence[dict[str, Any]]) -> InputError:
    if not spectra:
        return InputError(path, f"the {kind.upper()} file holds no image", "spectra cannot be segmented")
    shape = " x ".join(str(size) for size in spectra[0]["data"].shape)
    reason = f"the {kind.upper()} file holds a spectrum image of {shape} (an axis of energies), and no micrograph"
    return InputError(path, reason, "export the survey image, or a map of an element, as TIFF")


def _pixel_size(page: _Page, kind: Format) -> PixelSize | None:
    """The scale of the y and x axes where their unit is a length; diffraction patterns have none."""
    sizes = []
    for axis in page.axes:
        # NCEM's EMD writes [n_m] for nm.
        unit = str(axis.get("units") or "").strip("[]").replace("_", "")
        sizes.append(micrometres(abs(float(axis.get("scale") or 0)), unit))
    return believable(sizes[0], sizes[1], f"{kind.upper()} axis scale")


@contextlib.contextmanager
def _quiet() -> Any:
    """The library leaves handles to the garbage collector, and warns of what does not touch the pixels."""
    log = logging.getLogger("rsciio")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
