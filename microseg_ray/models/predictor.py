"""A model made ready to predict: one scaling, one precision, the same bytes every time on the same machine."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from microseg_ray.models import CLASSIFIERS
from microseg_ray.models.architectures.ensemble import Ensemble, members_kept
from microseg_ray.models.ensemble import load_model
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.largest import finite, largest, own_classes
from microseg_ray.models.probing import check_pixels, check_same_logits, largest_pixel
from microseg_ray.models.runtimes import load_runtime
from microseg_ray.models.runtimes.eager import TorchRuntime
from microseg_ray.models.scaling import model_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.ensemble import Checkpoints
    from microseg_ray.models.runtimes import Precision, Runtime
    from microseg_ray.models.runtimes.images import ImageNetwork
    from microseg_ray.models.strips.predictor import StripPredictor
    from microseg_ray.models.strips.stream import StripNetwork

__all__ = ["MembersToo", "Predictor", "load_predictor"]

_DTYPES = (np.uint8, np.int16, np.uint16, np.uint32, np.float32)
_CONVERTED: OrderedDict[str, tuple[ImageNetwork, float]] = OrderedDict()
"""The last converted models of this process by digest, each with its `largest_pixel`; nothing is compiled in them."""
_CONVERTED_KEPT = 4
_STREAMED: OrderedDict[tuple[object, ...], StripNetwork] = OrderedDict()
"""The last models in strips of this process, with what was compiled of them."""
_STREAMED_KEPT = 2


class MembersToo(NamedTuple):
    """What an ensemble predicts, and each of its members by itself.

    Attributes:
        masks: uint8 (n, y, x), of all members together.
        scores: float32 (n, K, y, x), where asked for.
        members: uint8 (n, members, y, x): the class that each member by itself gives.
    """

    masks: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    members: NDArray[np.uint8]


class Predictor:
    """Predicts batches of tiles: source integers in, classes or probabilities out.

    Scaling `(value - low) / (high - low)` happens here, in float32, on the device; nothing is clipped, unless the card
    asks for CLAHE. Batch norms are
    folded into the convolutions before them, tensors are channels_last. With the same device, the same `threads` and
    the same batches the same bytes come out.

    Args:
        model: Module from float32 (n, c, y, x) to logits (n, K, y, x); it is copied.
        card: Describes the model.
        precision: `bf16` runs the convolutions in bfloat16 (autocast) and the head in float32; `fp32` runs all in float32.
        device: `cpu`, `cuda`, `cuda:1` ...
        threads: Threads that torch uses in this process from now on; None leaves them as they are.
        runtime: `torch` or `openvino`, which computes one tile at a time.
        digest: The `model_digest` of the checkpoint that the model comes from; a process converts it for OpenVINO once.

    Attributes:
        classes: Number of classes K.
        members: Models whose probabilities are averaged; 0 for a single one.
        stride: Pixels that the sides of a tile must be multiples of.
        digest: The `model_digest` of the checkpoint, or "".
        runtime: What computes; its `precision` is fp32 where bf16 was asked for and the processor has no such units.

    Raises:
        ValueError: Unknown precision or runtime, or fewer than one thread.
        ImportError: OpenVINO is not installed.
        RuntimeUnfitError: OpenVINO cannot compute this model.
        MicrosegError: The model gives infinite logits; with OpenVINO this is found here.

    Example:
        >>> from microseg_ray.models import build_model
        >>> from microseg_ray.models.card import ModelCard, ReceptiveField
        >>> from microseg_ray.settings import ClassSpec
        >>> card = ModelCard(
        ...     architecture="unet",
        ...     in_channels=1,
        ...     classes=(ClassSpec(name="clay"), ClassSpec(name="pore")),
        ...     receptive_field=ReceptiveField(radius=10, stride=2),
        ... )
        >>> predictor = Predictor(build_model("unet", 1, 2, {"width": 2, "depth": 1}), card, precision="fp32")
        >>> tiles = np.zeros((3, 1, 8, 8), np.uint8)
        >>> predictor.masks(tiles, (0, 255)).shape
        (3, 8, 8)
        >>> predictor.scores(tiles, (0, 255)).shape, predictor.logits(tiles, (0, 255)).dtype
        ((3, 2, 8, 8), dtype('float32'))
    """

    def __init__(
        self,
        model: nn.Module,
        card: ModelCard,
        precision: Precision = "bf16",
        device: str = "cpu",
        threads: int | None = None,
        runtime: str = "torch",
        digest: str = "",
    ) -> None:
        # torch's own part (scaling, softmax) keeps to the threads in any case.
        eager = TorchRuntime(precision, device, threads)
        self.runtime: Runtime = eager if runtime == "torch" else load_runtime(runtime, precision, device, threads)
        self.card = card
        self.classes = len(card.classes)
        self.stride = card.receptive_field.stride
        self.digest = digest
        self.device = torch.device(device)
        self._eager = eager
        # A wrapper, so that a model that is one layer can be moved and folded like any other.
        prepared = fold_norms(nn.Sequential(copy.deepcopy(model)).eval()).requires_grad_(requires_grad=False)
        for part in prepared.modules():
            if isinstance(part, Ensemble):
                part.mean.kept = True
        self.members = members_kept(prepared)
        self._model = prepared.to(self.device)
        self._network: ImageNetwork | None = None
        self._streams: dict[int, StripPredictor] = {}
        self._largest_pixel = float("inf")
        if isinstance(self.runtime, TorchRuntime):
            for parameter in self._model.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        else:
            self._compile()

    def _compile(self) -> None:
        from microseg_ray.models.runtimes.images import ImageNetwork
        from microseg_ray.models.runtimes.vino import OpenVinoRuntime

        card, runtime = self.card, self.runtime
        if not isinstance(runtime, OpenVinoRuntime):
            raise TypeError(f"runtime {runtime.name} compiles no images")
        if not self.digest or self.digest not in _CONVERTED:
            size = (card.options["height"], card.options["width"]) if card.architecture in CLASSIFIERS else None
            network = ImageNetwork(runtime, self._model, card.in_channels, self.stride, size, self._writable(size))
            largest = largest_pixel(self._model, network.small)
            check_same_logits(self._model, network.by(OpenVinoRuntime("fp32", runtime.threads)), network.small)
            while len(_CONVERTED) >= _CONVERTED_KEPT:
                _CONVERTED.popitem(last=False)
            _CONVERTED[self.digest] = network, largest
        network, self._largest_pixel = _CONVERTED[self.digest]
        # The converted model has no state; what is compiled from it has, and belongs to this predictor.
        self._network = network.by(runtime)

    def _writable(self, size: tuple[int, int] | None) -> Callable[[int], nn.Module] | None:
        """The model of an image by its height, in a form that is compiled without torch.export; None where it has none."""
        from microseg_ray.models.strips.reason import NotStreamableError
        from microseg_ray.models.strips.stream import undivided

        if size:
            return None
        try:
            return undivided(self._model, self.card.in_channels, self.stride)
        except NotStreamableError:
            return None

    def masks(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> NDArray[np.uint8]:
        """The class of each pixel: that of the largest logit, the lower class on a tie.

        Args:
            batch: uint8, int16, uint16, uint32 or float32 (n, c, y, x) as read from the source; y and x multiples of `stride`.
            limits: Intensities (low, high) that become 0 and 1.

        Returns:
            uint8 (n, y, x).

        Raises:
            ValueError: Wrong shape, type or channels, or low not below high.
            MicrosegError: A logit is NaN or infinite.
        """
        return self._judged(batch, limits).masks

    def scores(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> NDArray[np.float32]:
        """Probabilities of the classes: the softmax of the logits.

        Args and errors are those of `masks`.

        Returns:
            float32 (n, K, y, x), contiguous.
        """
        if self._network is None:
            with self._eager.context():
                return self._forward(batch, limits).contiguous().softmax(dim=1).cpu().numpy()
        return _stacked(finite(logits).softmax(dim=1) for logits in self._logits(batch, limits))

    def logits(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> NDArray[np.float32]:
        """The model's output before the softmax.

        Args and errors are those of `masks`.

        Returns:
            float32 (n, K, y, x), contiguous.
        """
        if self._network is None:
            with self._eager.context():
                return self._forward(batch, limits).contiguous().cpu().numpy()
        return _stacked(finite(logits) for logits in self._logits(batch, limits))

    def masks_and_scores(
        self, batch: NDArray[np.generic], limits: tuple[float, float]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """What `masks` and `scores` return, from one forward pass.

        Args and errors are those of `masks`.
        """
        found = self._judged(batch, limits, scores=True)
        if found.scores is None:
            raise TypeError("scores were asked for")
        return found.masks, found.scores

    def members_too(
        self, batch: NDArray[np.generic], limits: tuple[float, float], *, scores: bool = False
    ) -> MembersToo:
        """What `masks` returns, and the class of each pixel by each member of an ensemble, from one forward pass.

        Args and errors are those of `masks`.

        Args:
            batch: As in `masks`.
            limits: As in `masks`.
            scores: Give what `scores` returns, too.
        """
        return self._judged(batch, limits, scores=scores, members=self.members)

    def _judged(
        self, batch: NDArray[np.generic], limits: tuple[float, float], *, scores: bool = False, members: int = 0
    ) -> MembersToo:
        shape = (len(batch), *batch.shape[-2:])
        masks, own = np.empty(shape, np.uint8), np.empty((shape[0], members, *shape[1:]), np.uint8)
        found = np.empty((shape[0], self.classes, *shape[1:]), np.float32) if scores else None
        with self._eager.context():
            for place, classes, output in self._parts(batch, limits):
                masks[place] = classes.cpu().numpy()
                if members:
                    own[place] = own_classes(output, members)
                if found is not None:
                    found[place] = output[:, : self.classes].contiguous().softmax(dim=1).cpu().numpy()
        return MembersToo(masks, found, own)

    def _parts(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which tiles, their classes, and `_output`; OpenVINO computes one after the other, into a buffer."""
        if self._network is None:
            output = self._output(batch, limits)
            yield slice(None), largest(finite(output[:, : self.classes])), output
            return
        for slot, image in enumerate(self._each(batch, limits)):
            yield slice(slot, slot + 1), *self._network.classes(image)

    def _logits(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> Iterator[Tensor]:
        """One tile after the other, from OpenVINO; a buffer that the next one overwrites."""
        if self._network is not None:
            for image in self._each(batch, limits):
                yield self._network.logits(image)[:, : self.classes]

    def _each(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> Iterator[Tensor]:
        """The tiles as the model sees them, one at a time, so that their number decides no byte."""
        images = self._checked(batch)
        for slot in range(len(images)):
            scaled = model_input(images[slot : slot + 1], limits, self.card.scaling.clahe)
            check_pixels(scaled, self._largest_pixel)
            yield scaled

    def strips(self, rows: int) -> StripPredictor:
        """The same model in strips; a process computes one stream of a model at a time.

        Args:
            rows: Rows of a strip.

        Raises:
            NotStreamableError: It cannot be computed in strips.
            RuntimeUnfitError: On use: OpenVINO cannot compute a strip.
        """
        if rows not in self._streams:
            self._streams[rows] = self._stream(rows)
        return self._streams[rows]

    def _stream(self, rows: int) -> StripPredictor:
        from microseg_ray.models.strips.predictor import StripPredictor
        from microseg_ray.models.strips.stream import StripNetwork

        key = (self.digest, rows, self.runtime.name, self.runtime.precision, str(self.device), torch.get_num_threads())
        network = _STREAMED.pop(key, None) or StripNetwork(
            self._model, self.card.in_channels, self.stride, rows, self.runtime
        )
        if self.digest:
            _STREAMED[key] = network
        while len(_STREAMED) > _STREAMED_KEPT:
            _STREAMED.popitem(last=False)
        return StripPredictor(
            network, self.runtime, self._seen, None if self._network is None else self._network.classes
        )

    def _seen(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> Tensor:
        """What the model sees of a batch."""
        images = model_input(self._checked(batch), limits, self.card.scaling.clahe)
        if self._network is not None:
            check_pixels(images, self._largest_pixel)
            return images
        return images.contiguous(memory_format=torch.channels_last)

    def _checked(self, batch: NDArray[np.generic]) -> Tensor:
        channels = self.card.in_channels
        if batch.ndim != 4 or batch.shape[1] != channels:
            raise ValueError(f"batch of shape {batch.shape}: the model needs (n, {channels}, y, x)")
        if batch.dtype.newbyteorder("=") not in _DTYPES:
            raise ValueError(f"batch of {batch.dtype}: tiles are uint8, int16, uint16, uint32 or float32")
        native = np.require(batch, dtype=batch.dtype.newbyteorder("="), requirements=["C", "W"])
        return _uploaded(native, self.device)

    def _forward(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> Tensor:
        return finite(self._output(batch, limits)[:, : self.classes])

    def _output(self, batch: NDArray[np.generic], limits: tuple[float, float]) -> Tensor:
        """Float32 logits, and behind them those of each member of an ensemble."""
        images = self._checked(batch)
        output: Tensor = self._model(
            model_input(images, limits, self.card.scaling.clahe).contiguous(memory_format=torch.channels_last)
        )
        classes = output.shape[1] // (1 + self.members)
        if classes != self.classes:
            raise ValueError(f"the model gives {classes} classes, its card names {self.classes}")
        return output.float()


def _stacked(tensors: Iterable[Tensor]) -> NDArray[np.float32]:
    """One array of tensors (1, ...) that may be overwritten when the next one comes."""
    return np.concatenate([tensor.numpy().copy() for tensor in tensors])


def load_predictor(
    checkpoints: Checkpoints,
    *,
    precision: Precision = "bf16",
    threads: int | None = None,
    device: str = "cpu",
    runtime: str = "torch",
) -> Predictor:
    """The predictor of a checkpoint, or of several whose probabilities are averaged, with the digest.

    Args:
        checkpoints: Folder of a checkpoint, or a tuple of them.
        precision: As in `Predictor`.
        threads: As in `Predictor`.
        device: As in `Predictor`.
        runtime: As in `Predictor`.

    Raises:
        CheckpointError: As `models.ensemble.load_model`.
        ImportError: As `Predictor`.
        RuntimeUnfitError: As `Predictor`.

    Example:
        >>> load_predictor("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    model, described = load_model(checkpoints)
    return Predictor(model, described.card, precision, device, threads, runtime, described.digest)


def _uploaded(batch: NDArray[np.generic], device: torch.device) -> Tensor:
    """The batch on the device as it is; scaling it there moves a quarter of the bytes."""
    if batch.dtype == np.uint16 and device.type != "cpu":
        # Devices have few kernels for uint16 and uint32.
        return torch.from_numpy(batch.view(np.int16)).to(device).to(torch.int32).bitwise_and_(0xFFFF)
    if batch.dtype == np.uint32 and device.type != "cpu":
        return torch.from_numpy(batch.view(np.int32)).to(device).to(torch.int64).bitwise_and_(0xFFFFFFFF)
    return torch.from_numpy(batch).to(device)
