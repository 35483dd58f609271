"""The pictures of an evaluation folder: plots, panels, overlays, TensorBoard events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import MicrosegError, ObjectStoreError
from microseg_ray.evaluation.events import FILE
from microseg_ray.evaluation.writing import OWNER, TABLES
from microseg_ray.figures import Pane, compose_panel, error_colors, thumbnail, tinted
from microseg_ray.figures.pictures import class_palette, stretched
from microseg_ray.files import place, whole
from microseg_ray.geometry import Box
from microseg_ray.names import below
from microseg_ray.outputs import Kind, claim, drop
from microseg_ray.quarantine import Failure, stop_if_full
from microseg_ray.recognition import is_record
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from microseg_ray.evaluation.disagreements import Look
    from microseg_ray.evaluation.pairs import Pair
    from microseg_ray.evaluation.result import Evaluation
    from microseg_ray.files import Place
    from microseg_ray.settings import ClassSpec, EvaluateSettings

__all__ = ["Drawing"]

PANE = 512
OVERLAY_PIXELS = 1 << 24
"""A larger micrograph gets a panel but no overlays: `segment` and its web page are for these."""

_PARTS = ("truth", "prediction", "intersection")
_OURS = ("panels", "overlays", "events", "disagreements")
_PLOTS = ("confusion_matrix.png", "reliability.png", "precision_recall.png", "curves.png")


class Drawing:
    """Draws micrographs as they are judged, and plots at the end.

    Args:
        settings: `output`, `figures`, `pictures` and `checkpoint` count.
        specs: The classes.
        names: All micrographs, of which some are drawn, spread evenly.
    """

    def __init__(self, settings: EvaluateSettings, specs: tuple[ClassSpec, ...], names: Sequence[str]) -> None:
        self._output = place(settings.output)
        self._wanted = settings.figures
        self._specs, self._palette = specs, class_palette(specs)
        # An ensemble has no curves of one training.
        self._checkpoint = settings.checkpoint if isinstance(settings.checkpoint, str) else None
        count = min(settings.pictures, len(names)) if settings.figures else 0
        self._names = {names[number * len(names) // count] for number in range(count)}
        self._places = min(settings.pictures, settings.disagreements) if settings.figures else 0
        self._drawn: list[tuple[str, Place]] = []
        self._clear()

    def draw(self, pair: Pair, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> list[Failure]:
        """Panel and overlays of one micrograph, if it is one of those that are drawn; what went wrong with it."""
        if pair.name not in self._names:
            return []
        try:
            self._panel(pair, truth, prediction)
            if pair.open_image is not None and truth.size <= OVERLAY_PIXELS:
                self._overlays(pair, truth, prediction)
        except ObjectStoreError:
            raise
        except (MicrosegError, ValueError, OSError) as error:
            stop_if_full(error, self._output)
            return [Failure(pair.name, "draw", str(error))]
        return []

    def looks(self, looks: Sequence[Look]) -> None:
        """Pictures of the places where label and prediction disagree: disagreements/RANK.png."""
        for rank, look in enumerate(looks, 1):
            place, factor = look.place, max(1, PANE // 2 // max(look.truth.shape))
            own = (look.truth == place.label) & (look.prediction == place.prediction)
            panes = [
                Pane("label", self._palette[look.truth]),
                Pane("prediction", self._palette[look.prediction]),
                Pane("this label, this prediction", error_colors(own.astype(np.float64), look.truth != IGNORE_INDEX)),
            ]
            if look.pixels is not None:
                panes.insert(0, Pane("image", gray_of(look.pixels)))
            panes = [Pane(pane.title, pane.pixels.repeat(factor, axis=0).repeat(factor, axis=1)) for pane in panes]
            label, guess = (self._specs[index].name for index in (place.label, place.prediction))
            sure = "" if place.confidence is None else f", sure by {place.confidence:.2f}"
            caption = f"{look.name} (y, x) = ({place.box.y0}, {place.box.x0}): {label}, predicted {guess}{sure}"
            self._save("disagreements", f"{rank}.png", compose_panel(panes, self._specs, None, caption))

    def finish(self, result: Evaluation) -> None:
        """Plots of all micrographs together, and the events for TensorBoard."""
        if not self._wanted:
            return
        from microseg_ray.evaluation.events import write_events
        from microseg_ray.evaluation.plots import plot_precision_recall, plot_reliability
        from microseg_ray.figures import plot_confusion, plot_training

        plot_confusion(self._output / "confusion_matrix.png", result.pooled.counts, result.classes)
        scores = result.total.scores
        if scores is not None:
            curves = {"as predicted": scores.reliability}
            if scores.tempered is not None and result.calibration is not None:
                curves[f"temperature {result.calibration.temperature.value:.3f}"] = scores.tempered
            plot_reliability(self._output / "reliability.png", curves)
            named = {name: scores.histogram.curve(index) for index, name in enumerate(result.classes)}
            plot_precision_recall(self._output / "precision_recall.png", named)
        history = None if self._checkpoint is None else place(self._checkpoint).absolute().parent / "metrics.csv"
        if history is not None and history.is_file():
            plot_training(self._output / "curves.png", history)
        plots = [(name.removesuffix(".png"), self._output / name) for name in _PLOTS if (self._output / name).is_file()]
        write_events(self._output / "events", result.document(), [*plots, *self._drawn])

    def _clear(self) -> None:
        """Claim the files of this evaluation, and delete older pictures, which would be taken for this one's."""
        files = [*TABLES, *_PLOTS, f"events/{FILE}"]
        for name in self._names:
            files += [f"panels/{below(name)}.png", *(f"overlays/{below(name)}.{part}.png" for part in _PARTS)]
        files += [f"disagreements/{rank}.png" for rank in range(1, self._places + 1)]
        # An output of an earlier version has no manifest.
        proven = is_record(self._output / "metrics.json", "pooled", "per_image")
        claim(self._output, OWNER, dict.fromkeys(files, Kind.FILE), proven=proven)
        drop(self._output, OWNER, (*_OURS, *_PLOTS))

    def _panel(self, pair: Pair, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        known = truth != IGNORE_INDEX
        wrong = np.where(known & (truth != prediction), np.uint8(255), np.uint8(0))
        small = [_thumb(mask, labels=True) for mask in (truth, prediction)]
        panes = [
            Pane("label", self._palette[small[0]]),
            Pane("prediction", self._palette[small[1]]),
            Pane("error", error_colors(_thumb(wrong).astype(np.float64) / 255, small[0] != IGNORE_INDEX)),
        ]
        pixel_size = None
        if pair.open_image is not None:
            with pair.open_image() as micrograph:
                image = stretched(thumbnail(micrograph.read, micrograph.info.shape, PANE)[:3])
                size = micrograph.info.pixel_size_um
            panes.insert(0, Pane("image", image))
            # A thumbnail's pixel is a whole number of the micrograph's.
            pixel_size = None if size is None else size[1] * -(-max(truth.shape) // PANE)
        # A small micrograph is shown larger, each of its pixels as a square.
        factor = max(1, PANE // 2 // max(truth.shape))
        panes = [Pane(pane.title, pane.pixels.repeat(factor, axis=0).repeat(factor, axis=1)) for pane in panes]
        pixel_size = None if pixel_size is None else pixel_size / factor
        share = wrong.astype(bool).sum() / max(1, int(known.sum()))
        caption = f"{pair.name}: {100 * share:.2f} % of the labelled pixels are wrong"
        path = self._save("panels", f"{below(pair.name)}.png", compose_panel(panes, self._specs, pixel_size, caption))
        self._drawn.append((f"panels/{below(pair.name)}", path))

    def _overlays(self, pair: Pair, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Truth, prediction, and where both agree, each pixel on the micrograph's own."""
        from PIL import Image

        if pair.open_image is None:
            return
        with pair.open_image() as micrograph:
            pixels = micrograph.read(Box.of_shape(micrograph.info.shape))
        gray = gray_of(pixels)
        both = np.where(truth == prediction, truth, np.uint8(IGNORE_INDEX))
        for name, mask in zip(_PARTS, (truth, prediction, both), strict=True):
            self._save("overlays", f"{below(pair.name)}.{name}.png", Image.fromarray(tinted(gray, mask, self._palette)))

    def _save(self, folder: str, name: str, image: Image.Image) -> Place:
        path = self._output / folder / name
        with whole(path) as partial:
            image.save(partial, format="PNG")
        return path


def gray_of(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """A micrograph as it is laid under an overlay: 8-bit pixels as they are, others stretched.

    Args:
        pixels: (c, y, x).

    Returns:
        uint8 (y, x, 3).

    Example:
        >>> gray_of(np.array([[[7, 9]]], np.uint8)).tolist()
        [[[7, 7, 7], [9, 9, 9]]]
    """
    shown = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    if pixels.dtype != np.uint8:
        return stretched(shown)
    return np.ascontiguousarray(np.moveaxis(np.broadcast_to(shown, (3, *shown.shape[1:])), 0, -1))


def _thumb(mask: NDArray[np.uint8], *, labels: bool = False) -> NDArray[np.uint8]:
    shape = (mask.shape[0], mask.shape[1])
    return np.asarray(thumbnail(lambda box: mask[None][(..., *box.slices)], shape, PANE, labels=labels)[0])
