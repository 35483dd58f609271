"""Records of a running fit: TensorBoard events always, MLflow if configured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from microseg_ray.errors import SettingsError
from microseg_ray.files import write_text

if TYPE_CHECKING:
    from microseg_ray.fitting.history import EpochReport
    from microseg_ray.settings import MlflowSettings
    from microseg_ray.settings.epochs import EpochSettings

__all__ = ["Events", "MlflowRun", "Tracker", "scalars", "trackers"]

RUN_FILE = "mlflow_run"


class Tracker(Protocol):
    """Records epochs."""

    def add(self, row: EpochReport) -> None:
        """Record one epoch."""

    def close(self) -> None:
        """Called when the fit has ended."""


def scalars(row: EpochReport) -> dict[str, float]:
    """The numbers of an epoch, without its index and without undefined ones."""
    hidden = {"epoch", "score", "best"}
    return {
        name: float(value)
        for name, value in asdict(row).items()
        if isinstance(value, float | int) and name not in hidden
    }


def trackers(settings: EpochSettings, classes: list[str]) -> list[Tracker]:
    """The trackers of a fit.

    Args:
        settings: The job's settings; MLflow records all of them as parameters.
        classes: Names of the classes.
    """
    output = Path(settings.output)
    found: list[Tracker] = [Events(output / "events", classes)]
    if settings.mlflow is not None:
        found.append(MlflowRun(settings.mlflow, output, settings.resolved(), classes))
    return found


class Events:
    """TensorBoard events: a scalar per metric and epoch, and the IoU of each class."""

    def __init__(self, folder: Path, classes: list[str]) -> None:
        from tensorboardX import SummaryWriter

        self._classes = classes
        self._writer = SummaryWriter(str(folder))

    def add(self, row: EpochReport) -> None:
        """Record one epoch."""
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row.epoch)
        for index, iou in enumerate(row.class_iou):
            if iou is not None:
                self._writer.add_scalar(f"class_iou/{index}", iou, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()


class MlflowRun:
    """An MLflow run: settings as parameters, metrics per epoch, the checkpoint's path as a tag; resumed with the fit.

    Args:
        chosen: Server, experiment and name of the run.
        output: The fit's folder.
        parameters: Logged once, when the run is created.
        classes: Names of the classes.
    """

    def __init__(self, chosen: MlflowSettings, output: Path, parameters: dict[str, Any], classes: list[str]) -> None:
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise SettingsError("train.mlflow: MLflow is not installed: pip install 'microseg_ray[mlflow]'") from error
        self._classes = classes
        try:
            self._client = MlflowClient(tracking_uri=chosen.uri)
            experiment = self._client.get_experiment_by_name(chosen.experiment)
            place = (
                experiment.experiment_id
                if experiment is not None
                else self._client.create_experiment(chosen.experiment)
            )
            self._run = _noted_run(output / RUN_FILE)
            if not self._run:
                self._run = self._client.create_run(place, run_name=chosen.run or output.name).info.run_id
                write_text(output / RUN_FILE, self._run)
                for name, value in _flat(parameters).items():
                    self._client.log_param(self._run, name, str(value)[:500])
            self._client.set_tag(self._run, "checkpoint", str(output / "best"))
            self._client.update_run(self._run, status="RUNNING")
        except MlflowException as error:
            raise SettingsError(
                f"train.mlflow: {chosen.uri}: {error}; check the address, or leave mlflow out"
            ) from error

    def add(self, row: EpochReport) -> None:
        """Record one epoch."""
        for name, value in scalars(row).items():
            self._client.log_metric(self._run, name, value, step=row.epoch)
        for name, iou in zip(self._classes, row.class_iou, strict=True):
            if iou is not None:
                self._client.log_metric(self._run, f"iou_{_mlflow_name(name)}", iou, step=row.epoch)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


def _noted_run(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _mlflow_name(name: str) -> str:
    """MLflow takes letters, digits and a few marks in the name of a metric."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-. /") else "_" for letter in name)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optimizer": {"name": "sgd"}}` as `{"optimizer.name": "sgd"}`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
