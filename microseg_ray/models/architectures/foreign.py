"""Models of segmentation-models-pytorch by name, if that package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.models.architectures.blocks import ScaledInput, check_sides, full_precision, input_scaling

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SmpModel"]


class SmpModel(nn.Module):
    """A model of segmentation-models-pytorch, without pre-trained weights; `model.weights` can name a file.

    Its receptive field is measured if its layers allow that; otherwise it is treated as tile-dependent.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        architecture: `Unet`, `UnetPlusPlus`, `FPN`, `DeepLabV3Plus` ...
        encoder: `resnet34`, `mobilenet_v2`, `tu-...` for timm's ...
        scaling: Input range of the encoder's weights.

    Raises:
        SettingsError: The package is not installed, or has no such architecture or encoder.

    Example:
        >>> SmpModel(1, 2, architecture="Unet", encoder="no-such-encoder")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        microseg_ray.errors.SettingsError: model.name: smp needs the package segmentation-models-pytorch ...
    """

    stride = 32
    foreign = True

    def __init__(
        self,
        in_channels: int,
        classes: int,
        architecture: str = "Unet",
        encoder: str = "resnet34",
        scaling: ScaledInput = "plain",
    ) -> None:
        super().__init__()
        try:
            import segmentation_models_pytorch as smp
        except (ImportError, RuntimeError) as error:
            # A torchvision that does not match the installed torch raises RuntimeError.
            raise SettingsError(
                f"model.name: smp needs the package segmentation-models-pytorch ({error}); pip install 'microseg_ray[smp]'"
            ) from error
        try:
            built: Any = smp.create_model(
                architecture, encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=classes
            )
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise SettingsError(
                f"model.architecture, model.encoder: {architecture!r} on {encoder!r} is nothing that "
                f"segmentation-models-pytorch can build ({error}); smp.encoders.get_encoder_names() has the names"
            ) from error
        self.in_channels = in_channels
        self.classes = classes
        self.scaling = input_scaling(scaling, in_channels)
        self.encoder = built.encoder
        self.decoder = built.decoder
        self.segmentation_head = built.segmentation_head

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, y, x), sides multiples of 32, to float32 logits (n, classes, y, x)."""
        check_sides(images, self.stride)
        features = self.decoder(self.encoder(self.scaling(images)))
        return full_precision(self.segmentation_head, features)
