"""What computes a checkpoint's model here, decided before a job starts: the runtime, and what of it a run is bound to."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.errors import RuntimeUnfitError, SettingsError
from microseg_ray.models import ENSEMBLE
from microseg_ray.models.runtimes import runtime_name, runtime_record
from microseg_ray.models.runtimes.choose import CONVERTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.ensemble import Checkpoints
    from microseg_ray.models.runtimes import Precision, RuntimeChoice

__all__ = ["Computing", "decide_runtime"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computing:
    """What computes.

    Attributes:
        runtime: `torch` or `openvino`.
        record: What of it decides bytes, as `runtime_record`.
        note: What the user did not ask for, in one sentence: a fallback, or another precision; "" for nothing.
    """

    runtime: str
    record: Mapping[str, str]
    note: str = ""

    @property
    def words(self) -> str:
        """The runtime with its version, for people.

        Example:
            >>> Computing("torch", {"runtime": "torch", "torch": "2.9"}).words
            'torch 2.9'
        """
        return f"{self.runtime} {self.record[self.runtime]}"


def decide_runtime(
    checkpoint: Checkpoints,
    card: ModelCard,
    choice: RuntimeChoice,
    precision: Precision,
    device: str = "cpu",
    key: str = "runtime",
) -> Computing:
    """The runtime of a job.

    Args:
        checkpoint: Folder of the model, or folders of an ensemble; loaded only for architectures from other packages, which are
            tried.
        card: Its card.
        choice: The setting.
        precision: The setting.
        device: `cpu`, `cuda` ...
        key: Of the setting, for messages.

    Raises:
        CheckpointError: A model that has to be tried cannot be loaded.
        SettingsError: OpenVINO is asked for and cannot be used; the message says why.
    """
    name, reason = runtime_name(choice, device, key), ""
    if name == "openvino":
        reason = _objection(checkpoint, card, precision)
        if reason and choice != "auto":
            raise SettingsError(f"{key}: {reason}; set runtime: torch")
        name = "torch" if reason else name
    record = runtime_record(name, precision, device)
    used = record.get("runtime_precision", precision)
    if reason:
        reason = f"computed by torch: {reason}"
    elif used != precision:
        reason = f"computed in {used}: this processor has no {precision} units"
    if reason:
        _log.warning("%s", reason)
    return Computing(name, record, reason)


def _objection(checkpoint: Checkpoints, card: ModelCard, precision: Precision) -> str:
    """Why OpenVINO cannot compute a model here; "" where it can."""
    try:
        record = runtime_record("openvino", precision)
        if card.architecture == ENSEMBLE and record["runtime_precision"] == "bf16":
            return "OpenVINO would average probabilities in bf16, in which close ones become ties; set precision: fp32 for it"
        if not _architectures(card) <= set(CONVERTED):
            from microseg_ray.models.predictor import load_predictor

            load_predictor(checkpoint, precision=precision, runtime="openvino")
    except ImportError as error:
        return f"OpenVINO is installed and does not load ({error})"
    except RuntimeUnfitError as error:
        return f"{card.architecture}: {error}"
    return ""


def _architectures(card: ModelCard) -> set[str]:
    """The architecture, or those of an ensemble's members."""
    if card.architecture != ENSEMBLE:
        return {card.architecture}
    return {member["architecture"] for member in card.options["members"]}
