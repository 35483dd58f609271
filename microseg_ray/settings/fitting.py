"""How a model is trained: loss, sampling, augmentation, optimizer and schedule, early stopping, tracking."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from microseg_ray.settings.base import Frozen

__all__ = [
    "NO_AUGMENTATION",
    "AugmentSettings",
    "EarlyStoppingSettings",
    "LossSettings",
    "MlflowSettings",
    "OptimizerSettings",
    "PlateauSettings",
    "SamplingSettings",
    "augmentation_of",
    "loss_section",
]


class LossSettings(Frozen):
    """A weighted sum of losses, `{cross_entropy: 1, dice: 1}`; nothing named is cross entropy alone.

    Example:
        >>> LossSettings().terms, LossSettings(dice=1, focal=0.5).terms
        ({'cross_entropy': 1.0}, {'dice': 1.0, 'focal': 0.5})
    """

    cross_entropy: float = Field(default=0.0, ge=0, description="weight of the cross entropy")
    dice: float = Field(default=0.0, ge=0, description="weight of the soft Dice loss")
    focal: float = Field(default=0.0, ge=0, description="weight of the focal loss")
    tversky: float = Field(default=0.0, ge=0, description="weight of the Tversky loss")
    lovasz: float = Field(default=0.0, ge=0, description="weight of the Lovasz-softmax loss")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="of cross entropy and focal loss")
    mean_over: Literal["weights", "pixels"] = Field(
        default="weights",
        description="what a weighted cross entropy is divided by: the summed class weights, or the labelled pixels",
    )
    gamma: float = Field(default=2.0, ge=0, description="of the focal loss; 0 is cross entropy")
    false_positives: float = Field(default=0.3, ge=0, description="Tversky's alpha")
    false_negatives: float = Field(default=0.7, ge=0, description="Tversky's beta; .5 and .5 is Dice")
    regions: Literal["batch", "image"] = Field(
        default="batch", description="Dice and Tversky over the whole batch, or per image and then averaged"
    )

    @property
    def terms(self) -> dict[str, float]:
        """Weight of each loss that counts."""
        names = ("cross_entropy", "dice", "focal", "tversky", "lovasz")
        chosen = {name: float(getattr(self, name)) for name in names if getattr(self, name)}
        return chosen or {"cross_entropy": 1.0}


def loss_section(value: Any) -> Any:
    """Accept `loss: dice` as well as `loss: {dice: 1}`."""
    return {value: 1.0} if isinstance(value, str) else value


class SamplingSettings(Frozen):
    """Which tiles make a batch.

    `uniform`: every tile once an epoch, in an order that each epoch shuffles. `class_area`: a share of each batch goes
    round the classes, and a tile is drawn for a class by how many of its pixels it has, so that a rare class is in every
    batch of at least as many tiles as there are classes; the rest is as in `uniform`.

    Example:
        >>> SamplingSettings(kind="class_area").share
        0.5
    """

    kind: Literal["uniform", "class_area"] = "uniform"
    share: float = Field(
        default=0.5, gt=0, le=1, description="share of a batch that is drawn by class; at least one tile a class"
    )
    power: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="a class's tiles are drawn by its area to this power: 0 all alike, 1 in proportion",
    )


class AugmentSettings(Frozen):
    """How a tile is changed before it is learnt from; the same movement for image and mask.

    `augment: true` is this section with its defaults; `augment: false` changes nothing.

    Example:
        >>> AugmentSettings(rotate=180, scale=(0.7, 1.4)).scale
        (0.7, 1.4)
        >>> AugmentSettings(symmetries=False, brightness=0, contrast=0) == NO_AUGMENTATION
        True
    """

    symmetries: bool | Literal["mirror"] = Field(
        default=True, description="the 8 symmetries of the square; mirror: left and right alone, where up is not down"
    )
    rotate: float = Field(default=0.0, ge=0, le=180, description="degrees; angles are uniform in -rotate to rotate")
    scale: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(1.0, 1.0), description="least and largest magnification, as in [0.7, 1.4]"
    )
    stretch: float = Field(
        default=0.0, ge=0, lt=0.9, description="each axis by a factor of its own, 1 - stretch to 1 + stretch"
    )
    elastic: float = Field(default=0.0, ge=0, description="largest elastic displacement in pixels")
    elastic_spacing: float = Field(default=48.0, ge=8, description="pixels between the nodes of the elastic field")
    outside: Literal["zoom", "ignore"] = Field(
        default="zoom",
        description="where a moved crop would reach beyond the tile: magnify it until it does not, or mask it with 255",
    )
    brightness: float = Field(default=0.1, ge=0, description="largest shift of the scaled intensities")
    contrast: float = Field(default=0.1, ge=0, lt=1, description="intensities times 1 - contrast to 1 + contrast")
    gamma: tuple[PositiveFloat, PositiveFloat] = Field(default=(1.0, 1.0), description="least and largest exponent")
    noise: float = Field(default=0.0, ge=0, description="largest standard deviation of added Gaussian noise")
    blur: float = Field(default=0.0, ge=0, le=10, description="largest sigma of a Gaussian blur in pixels")
    dropout: float = Field(default=0.0, ge=0, le=0.9, description="largest share of a crop that rectangles cover")
    invert: float = Field(default=0.0, ge=0, le=1, description="share of tiles whose intensities are inverted")
    chance: float = Field(
        default=1.0, gt=0, le=1, description="share of tiles that each change is applied to; the symmetries always are"
    )
    copy_paste: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of tiles that get an object of a rare class from another tile; train, tune",
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Fits are bound to this: what is not used must not change what they are bound to.
        return {key: value for key, value in handler(self).items() if key != "copy_paste" or value}

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("scale", "gamma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"augment.{name}: [{low}, {high}] must be [least, largest]")
        return self


NO_AUGMENTATION = AugmentSettings(symmetries=False, brightness=0.0, contrast=0.0)


def augmentation_of(augment: bool | AugmentSettings) -> AugmentSettings:
    """The ranges that a setting `augment` selects: its own, the defaults, or none.

    Example:
        >>> augmentation_of(False) == NO_AUGMENTATION, augmentation_of(True) == AugmentSettings()
        (True, True)
    """
    if isinstance(augment, AugmentSettings):
        return augment
    return AugmentSettings() if augment else NO_AUGMENTATION


class PlateauSettings(Frozen):
    """`schedule: plateau`: the rate falls when the selecting score has not risen for some epochs.

    Example:
        >>> PlateauSettings(factor=0.8, patience=10, restore_best=True, giveup=3).giveup
        3
    """

    factor: float = Field(default=0.1, gt=0, lt=1, description="what the rate is multiplied with")
    patience: int = Field(default=10, ge=1, description="epochs without a better score before the rate falls")
    min_delta: float = Field(default=0.0, ge=0, description="a score must be better by more than this")
    min_rate: float = Field(default=0.0, ge=0, description="the rate falls no further")
    restore_best: bool = Field(default=False, description="go on from the best epoch's weights when the rate falls")
    giveup: int | None = Field(
        default=None, ge=1, description="stop after patience * giveup epochs without a better score"
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Frozen):
    """Optimizer and schedule."""

    name: Literal["adamw", "adam", "sgd", "rmsprop", "adadelta"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0, description="not of norms and biases")
    encoder_rate: float = Field(
        default=1.0, gt=0, le=1, description="rate of the encoder's last stage, as share of learning_rate"
    )
    stage_decay: float = Field(
        default=1.0, gt=0, le=1, description="rate of each stage of the encoder, as share of the next one's"
    )
    hold_encoder: float = Field(
        default=0.0, ge=0, lt=1, description="share of all steps in which the encoder keeps its weights"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd and rmsprop")
    nesterov: bool = Field(default=True, description="of sgd with momentum")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="of adam and adamw")
    rho: float = Field(
        default=0.9, gt=0, lt=1, description="of rmsprop (Keras: .9) and adadelta (Keras: .95): share of the old mean"
    )
    eps: float | None = Field(default=None, gt=0, description="default: the optimizer's own in torch")
    schedule: Literal["constant", "poly", "step", "cosine", "plateau"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps in which the rate rises from 0")
    power: float = Field(default=0.9, gt=0, description="of poly")
    end_rate: float = Field(default=0.0, ge=0, description="where poly and cosine end")
    milestones: tuple[PositiveInt, ...] = Field(default=(), description="epochs after which `step` multiplies the rate")
    factor: float = Field(default=0.1, gt=0, lt=1, description="what `step` multiplies the rate with")
    plateau: PlateauSettings = PlateauSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.schedule == "step" and not self.milestones:
            raise ValueError("optimizer.milestones: schedule step needs the epochs after which the rate falls")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"optimizer.milestones: {list(self.milestones)} must rise")
        if self.end_rate > self.learning_rate:
            raise ValueError(f"optimizer.end_rate: {self.end_rate} is above the learning rate {self.learning_rate}")
        return self


class EarlyStoppingSettings(Frozen):
    """Stop when the selecting score has not risen for some epochs."""

    patience: int = Field(ge=1, description="epochs without a better score")
    min_delta: float = Field(default=0.0, ge=0, description="a score must be better by more than this")


class MlflowSettings(Frozen):
    """Where MLflow keeps parameters and metrics; needs `pip install 'microseg_ray[mlflow]'`."""

    uri: str = Field(description="tracking server or store: http://..., sqlite:///runs.db, or a folder")
    experiment: str = "microseg"
    run: str | None = Field(default=None, description="name of the run; default: the output folder's name")
