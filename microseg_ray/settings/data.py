"""Micrographs, their masks, groups and splits: the section `data:`, and its fields as options of a job."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from microseg_ray.settings.base import Frozen, JobSettings
from microseg_ray.settings.limits import Seed

__all__ = ["AuditMode", "DataFields", "DataJobSettings", "DataSettings", "PairFields", "SplitFields"]


def _audit_mode(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


AuditMode = Annotated[Literal["stop", "report", "off"], BeforeValidator(_audit_mode)]


class DataSettings(Frozen):
    """What the jobs share: micrographs, their masks, and which of them belong together.

    `images` and `masks` are folders, globs or single files. A mask belongs to the image whose stem without
    `image_suffix` equals the mask's stem without `mask_suffix`. `group` is a regular expression that is searched in the
    file's stem; its first capture group (or the whole match) names the group, and a group is never split. `splits` maps a
    split to a list of groups, or to a share between 0 and 1; groups in no list fall to the shares, or to `train`.
    `stratify` reads the masks and spreads the classes evenly over the splits that have shares.

    `table` is a CSV or Parquet file with the columns micrograph, mask, group, split and pixel_size_um, in place of `images`
    and `masks`; `microseg catalog` writes one. `audit` says what happens where equal, mirrored, rotated or nearly equal
    micrographs are in different splits.
    """

    images: str | None = None
    masks: str | None = None
    table: str | None = None
    image_suffix: str = ""
    mask_suffix: str = ""
    group: str | None = None
    splits: dict[str, float | tuple[str, ...]] = Field(default_factory=dict)
    stratify: bool = False
    audit: AuditMode = "stop"
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.table is not None and (self.images is not None or self.masks is not None):
            raise ValueError(f"data.table {self.table!r} replaces images and masks; give one or the other")
        return self

    @field_validator("group")
    @classmethod
    def _is_regex(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"group {value!r} is not a regular expression: {error}") from error
        return value

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, float | tuple[str, ...]]) -> dict[str, float | tuple[str, ...]]:
        shares = [share for share in value.values() if isinstance(share, float | int)]
        if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(f"splits: shares {shares} must lie between 0 and 1 and not exceed 1 together")
        return value


class DataFields(JobSettings):
    """Base of the jobs that read micrographs by the fields of `data:`; each declares the fields that it uses."""

    @model_validator(mode="after")
    def _data_is_valid(self) -> Self:
        _ = self.data
        return self

    @property
    def data(self) -> DataSettings:
        """The section `data:`; a field that the job does not have is at its default."""
        names = DataSettings.model_fields.keys() & type(self).model_fields.keys()
        return DataSettings(**{name: getattr(self, name) for name in names})


class PairFields(DataFields):
    """Fields of a job that pairs micrographs with masks: `--images`, `--masks` and so on."""

    images: str | None = Field(default=None, description="folder, glob or file of micrographs")
    masks: str | None = Field(default=None, description="folder, glob or file of masks")
    table: str | None = Field(default=None, description="CSV or Parquet of micrographs, in place of images and masks")
    image_suffix: str = Field(default="", description="end of a micrograph's stem that is not part of its key")
    mask_suffix: str = Field(default="", description="end of a mask's stem that is not part of its key")
    group: str | None = Field(default=None, description="regular expression; micrographs of one group stay together")


class SplitFields(PairFields):
    """Fields of a job that assigns micrographs to splits as well."""

    splits: dict[str, float | tuple[str, ...]] = Field(
        default_factory=dict, description="by split, a share of the groups or a list of groups"
    )
    stratify: bool = Field(default=False, description="spread the classes evenly over the splits; reads the masks")
    seed: Seed = Field(default=0, description="of the shares")


class DataJobSettings(SplitFields):
    """All fields of `data:`."""

    audit: AuditMode = Field(default="stop", description="equal micrographs in different splits: stop, report or off")
