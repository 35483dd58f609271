"""Settings of the tune job: a train job whose settings are searched."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.base import Frozen
from microseg_ray.settings.data import DataSettings
from microseg_ray.settings.fit import FitSettings

__all__ = ["Space", "TuneSettings", "space_section"]


class Space(Frozen):
    """Where one setting is searched: a list of values, or a range.

    Example:
        >>> Space(low=1e-4, high=1e-2, log=True).values is None
        True
    """

    values: tuple[Any, ...] | None = Field(default=None, description="one of these")
    low: float | None = None
    high: float | None = None
    log: bool = Field(default=False, description="uniform in the logarithm")
    integer: bool = Field(default=False, description="whole numbers, both ends included")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.values is None) == (self.low is None or self.high is None):
            raise ValueError("give a list of values, or low and high")
        if self.values is not None:
            if not self.values or self.log or self.integer:
                raise ValueError("a list of values must hold one or more, and has neither log nor integer")
            return self
        low, high = float(self.low or 0), float(self.high or 0)
        if not low < high or (self.log and low <= 0):
            raise ValueError(f"low {low} must be below high {high}, and above 0 where log is true")
        return self


def space_section(value: Any) -> Any:
    """Accept `model.width: [8, 16]` as well as `model.width: {values: [8, 16]}`."""
    if not isinstance(value, dict):
        return value
    return {key: {"values": item} if isinstance(item, list | tuple) else item for key, item in value.items()}


_NOT_SEARCHED = ("tiles", "output", "overwrite", "workers", "gpu", "threads", "ray", "mlflow", "max_failures")


class TuneSettings(FitSettings):
    """`tune`: tile store -> the best of many trials. What the search does not name is as in the `train:` section."""

    job: ClassVar[str] = "tune"
    inherits: ClassVar[str] = "train"
    # A trial is one process with `gpus` of its own, and the folder of a fit is not the folder of a search.
    not_inherited: ClassVar[tuple[str, ...]] = ("workers", "gpu", "output")
    trials: int = Field(
        default=12, ge=1, le=1_000_000, description="settings that are tried; `grid` tries each of its points once"
    )
    search: Annotated[dict[str, Space], BeforeValidator(space_section)] = Field(
        default_factory=dict,
        description="settings of `train` by dotted name, `optimizer.learning_rate`, and where to look",
    )
    algorithm: Literal["random", "grid", "tpe", "cmaes"] = Field(
        default="random", description="tpe and cmaes are Optuna's; cmaes searches ranges only"
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        default="none", description="what ends or mends poor trials early"
    )
    grace: int = Field(default=1, ge=1, description="asha: epochs that every trial gets; pbt: epochs between exchanges")
    reduction: int = Field(default=3, ge=2, description="asha: of so many trials one goes on")
    objective: Literal["mean_iou", "area_error"] = Field(
        default="mean_iou",
        description="of the split val: mean IoU, or the mean error of the area fractions of whole micrographs",
    )
    concurrent: int = Field(default=1, ge=1, le=4096, description="trials at a time")
    cpus: float = Field(default=1.0, gt=0, le=4096, description="CPU cores of a trial")
    gpus: float = Field(default=0.0, ge=0, le=4096, description="GPUs of a trial; a fraction shares one")
    data: DataSettings = Field(default=DataSettings(), description="micrographs and masks, for area_error")

    @model_validator(mode="after")
    def _search_is_possible(self) -> Self:
        if not self.search:
            raise ValueError(
                "search: name at least one setting, such as optimizer.learning_rate: {low: 1e-4, high: 1e-2}"
            )
        fixed = next((key for key in self.search if key.split(".")[0] in _NOT_SEARCHED), None)
        if fixed is not None:
            raise ValueError(f"search.{fixed}: is the same for all trials; search what decides how a model learns")
        ranges = [key for key, space in self.search.items() if space.values is None]
        if self.algorithm == "grid" and ranges:
            raise ValueError(f"search.{ranges[0]}: grid needs a list of values")
        if self.algorithm == "cmaes" and len(ranges) < len(self.search):
            named = next(key for key in self.search if key not in ranges)
            raise ValueError(f"search.{named}: cmaes needs a range, low and high")
        if self.scheduler == "pbt" and self.algorithm in {"tpe", "cmaes"}:
            raise ValueError("scheduler pbt changes the settings itself; use algorithm random or grid with it")
        if self.scheduler != "asha":
            self.refuse_given(("reduction",), "goes with scheduler asha")
        if self.scheduler == "none":
            self.refuse_given(("grace",), "goes with scheduler asha or pbt")
        pairs = self.data.images is not None and self.data.masks is not None
        if self.objective == "area_error" and self.data.table is None and not pairs:
            raise ValueError("objective area_error needs data.images and data.masks, or data.table")
        return self
