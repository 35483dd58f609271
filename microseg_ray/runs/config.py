"""What all workers of a run have in common, and the model that the run is bound to."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from platform import node
from typing import TYPE_CHECKING, Any, Literal

from microseg_ray.errors import CheckpointError, RuntimeUnfitError
from microseg_ray.models.ensemble import folders
from microseg_ray.models.runtimes import runtime_record
from microseg_ray.runs.identity import RunIdentity, computed_with
from microseg_ray.settings import SourceSettings
from microseg_ray.sources import ScaleRule
from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from microseg_ray.fence import Fence
    from microseg_ray.models.predictor import Predictor as ModelPredictor
    from microseg_ray.settings import ClassSpec, Scaling
    from microseg_ray.sources.agreement import Intensities
    from microseg_ray.statistics.counts import SpreadKind
    from microseg_ray.stitching import EnginePlan

__all__ = ["WorkerConfig", "load_own_predictor"]


@dataclass(frozen=True)
class WorkerConfig:
    """The same for all workers of a run.

    Attributes:
        checkpoint: Folder of the model, or folders of an ensemble.
        precision: `bf16` or `fp32`.
        runtime: `torch` or `openvino`.
        device: torch device.
        threads: torch threads; part of what decides the bytes.
        plan: The engine's plan.
        identity: The run's identity, as it goes into each mask store.
        classes: The model's classes.
        channels: Channels that the model sees.
        scaling: How intensities become what the model sees.
        fingerprint: How an input is recognised: `stat` or `content`.
        verdict: What the run promises about seams.
        intensities: Those of training, where the card says.
        intensity_mismatch: What happens to a micrograph of certainly other intensities.
        decoded_limit: Bytes that decoding one file whole may take.
        source: Page, channel, info bar and the user's own pixel sizes.
        scale: The model's pixel size, and what happens to a micrograph of another one.
        fence: Keeps a worker that outlives its job from writing; None where nothing is written.
    """

    checkpoint: str | tuple[str, ...]
    precision: Literal["bf16", "fp32"]
    runtime: str
    device: str
    threads: int
    plan: EnginePlan
    identity: Mapping[str, Any]
    classes: tuple[ClassSpec, ...]
    channels: int
    scaling: Scaling
    fingerprint: Literal["stat", "content"]
    verdict: str
    intensities: Intensities | None = None
    intensity_mismatch: Literal["stop", "note", "rescale"] = "stop"
    decoded_limit: int = 8 * 1024**3
    source: SourceSettings = field(default_factory=SourceSettings)
    scale: ScaleRule = field(default_factory=ScaleRule)
    fence: Fence | None = None

    def writing(self) -> AbstractContextManager[None]:
        """What every write of a worker into the run is wrapped in.

        Raises:
            FencedError: The job is over, and another one writes here now.
        """
        return nullcontext() if self.fence is None else self.fence.writing()

    @property
    def spreads(self) -> tuple[tuple[SpreadKind, int], ...]:
        """What is counted by each of several predictions, and how many there are.

        Example:
            >>> from microseg_ray.settings import Scaling
            >>> from microseg_ray.stitching import EnginePlan
            >>> plan = EnginePlan(tile=64, halo=8, stride=8, shard=64, tta=True)
            >>> config = WorkerConfig(("a", "b"), "fp32", "torch", "cpu", 1, plan, {}, (), 1, Scaling(), "stat", "exact")
            >>> config.spreads
            (('ensemble', 2), ('tta', 8))
        """
        members = len(folders(self.checkpoint))
        found: list[tuple[SpreadKind, int]] = [("ensemble", members)] if members > 1 else []
        return (*found, *([("tta", len(SYMMETRIES))] if self.plan.tta else []))  # type: ignore[arg-type]

    @property
    def where(self) -> str:
        """The checkpoints, for messages."""
        return ", ".join(folders(self.checkpoint))

    def require_own(self, digest: str, found: Mapping[str, Any]) -> None:
        """Refuse a model or versions that the run is not bound to: a worker may run elsewhere, and start late.

        Args:
            digest: Of the checkpoint that the worker loaded.
            found: `computed_with` in the worker's process.

        Raises:
            CheckpointError: The checkpoint, or a version, is not the one that the run was prepared with.
        """
        bound = RunIdentity(
            str(self.identity["model_digest"]), {"computed_with": self.identity["pixels"]["computed_with"]}
        )
        differing = bound.differences(RunIdentity(digest, {"computed_with": dict(found)}))
        if differing:
            raise CheckpointError(
                f"{self.where}: not what the run was prepared with ({'; '.join(differing)}) on the node {node()}; do not "
                "change a checkpoint while a run uses it, and install the same versions on all nodes, of equal processors"
            )


def load_own_predictor(config: WorkerConfig) -> ModelPredictor:
    """Load the model that the run is bound to.

    Raises:
        CheckpointError: The checkpoint cannot be used, or it or a version is another one now.
    """
    from microseg_ray.models.predictor import load_predictor

    try:
        # First, because loading takes seconds: another version here is found at once.
        record = runtime_record(config.runtime, config.precision, config.device)
        loaded = load_predictor(
            config.checkpoint,
            precision=config.precision,
            threads=config.threads,
            device=config.device,
            runtime=config.runtime,
        )
    except ImportError as error:
        raise CheckpointError(
            f"the run is computed by {config.runtime}, which is missing on the node {node()} ({error}); install "
            f"'microseg_ray[{config.runtime}]' there, or give another output and set runtime: torch"
        ) from error
    except RuntimeUnfitError as error:
        raise CheckpointError(f"{config.where}: {error} on the node {node()}; set runtime: torch") from error
    config.require_own(loaded.digest, computed_with(loaded.card, record))
    return loaded
