"""What the settings of all jobs share: where values come from, and the fields of `data:`."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from microseg_ray.settings.values import AuditMode, DataSettings

__all__ = ["DataJobSettings", "JobSettings"]


class JobSettings(BaseSettings):
    """Base of every job's settings; see the module for where values come from."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )
    job: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(  # noqa: D102 - pydantic-settings' hook
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `init_settings` holds the command line when CliApp runs, `_file_values` what the YAML said.
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls._file_values))

    _file_values: ClassVar[dict[str, Any]] = {}

    def resolved(self) -> dict[str, Any]:
        """These settings as plain JSON types, to be saved beside the output."""
        return self.model_dump(mode="json")


class DataJobSettings(JobSettings):
    """Fields of `data:` on the command line of a job: `--images`, `--masks` and so on."""

    images: str | None = Field(default=None, description="folder, glob or file of micrographs")
    masks: str | None = Field(default=None, description="folder, glob or file of masks")
    table: str | None = Field(default=None, description="CSV or Parquet of micrographs, in place of images and masks")
    image_suffix: str = ""
    mask_suffix: str = ""
    group: str | None = None
    splits: dict[str, float | tuple[str, ...]] = Field(default_factory=dict)
    stratify: bool = Field(default=False, description="spread the classes evenly over the splits; reads the masks")
    audit: AuditMode = Field(default="stop", description="equal micrographs in different splits: stop, report or off")
    seed: int = 0

    @model_validator(mode="after")
    def _data_is_valid(self) -> Self:
        _ = self.data
        return self

    @property
    def data(self) -> DataSettings:
        """The shared `data:` section."""
        return DataSettings(**{name: getattr(self, name) for name in DataSettings.model_fields})
