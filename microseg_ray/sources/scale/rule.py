"""ScaleRule: what happens to a micrograph whose pixel size is not the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_shape
from microseg_ray.sources.scale.pixel_size import apart

if TYPE_CHECKING:
    from microseg_ray.sources.info import MicrographInfo

__all__ = ["ScaleRule"]

_LARGEST = 8.0  # times: a model that needs finer pixels than that sees nothing but interpolation


@dataclass(frozen=True)
class ScaleRule:
    """What happens to a micrograph whose pixel size is not the one that the model was trained at.

    Attributes:
        pixel_size_um: (y, x) that the model was trained at, None where it is not known.
        tolerance: The largest difference that counts as equal, as a share.
        mismatch: `stop`: the micrograph is refused; `rescale`: it is resampled to the trained pixel size; `ignore`.

    Example:
        >>> rule = ScaleRule((0.5, 0.5), tolerance=0.1, mismatch="rescale")
        >>> rule.differs((0.52, 0.5)), rule.differs((0.6, 0.5)), rule.differs(None)
        (False, True, False)
    """

    pixel_size_um: tuple[float, float] | None = None
    tolerance: float = 0.1
    mismatch: Literal["stop", "rescale", "ignore"] = "stop"

    def differs(self, size: tuple[float, float] | None) -> bool:
        """Whether both pixel sizes are known and differ by more than the tolerance."""
        return None not in {size, self.pixel_size_um} and self._apart(size) > self.tolerance

    def target(self, info: MicrographInfo) -> tuple[int, int] | None:
        """The (height, width) of the specimen at the trained pixel size; None where it is to be read as it is.

        Raises:
            InputError: The rule is `stop` and the pixel sizes differ; or rescaling would need more than 8 times as many
                pixels along an axis.
        """
        if self.mismatch == "ignore" or not self.differs(info.pixel_size_um):
            return None
        (y, x), trained = info.pixel_size_um or (1.0, 1.0), self.pixel_size_um or (1.0, 1.0)
        reason = (
            f"its pixels are {y:.4g} x {x:.4g} um ({info.pixel_size_source}), the model was trained at "
            f"{trained[0]:.4g} x {trained[1]:.4g} um"
        )
        if self.mismatch == "stop":
            advice = "set on_scale_mismatch to rescale (or ignore), correct the pixel size, or raise scale_tolerance"
            raise InputError(info.path, reason, advice)
        factors = (y / trained[0], x / trained[1])
        if max(factors) > _LARGEST:
            raise InputError(
                info.path, f"{reason}: too coarse to be rescaled", "take a micrograph at a higher magnification"
            )
        height, width = (
            max(1, round(side * factor)) for side, factor in zip(info.specimen.shape, factors, strict=True)
        )
        bound_shape(info.path, (height, width))
        return height, width

    def note(self, size: tuple[float, float] | None) -> str:
        """What is to be said of a micrograph that is read as it is; "" where there is nothing.

        Example:
            >>> ScaleRule((0.5, 0.5)).note(None)
            'pixel size unknown, so the scale is not checked against the 0.5 x 0.5 um that the model was trained at'
        """
        if self.pixel_size_um is None:
            return ""
        trained = f"the {self.pixel_size_um[0]:.4g} x {self.pixel_size_um[1]:.4g} um that the model was trained at"
        if size is None:
            return f"pixel size unknown, so the scale is not checked against {trained}"
        return f"pixel size {size[0]:.4g} x {size[1]:.4g} um is not {trained}" if self.differs(size) else ""

    def _apart(self, size: tuple[float, float] | None) -> float:
        return 0.0 if size is None or self.pixel_size_um is None else apart(size, self.pixel_size_um)
