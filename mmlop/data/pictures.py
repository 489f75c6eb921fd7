"""Reading pictures, and turning them into what a model is shown: prepared for evaluation, augmented for training.

Pictures travel as uint8 tensors [3, H, W]; normalisation happens on the model's device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mmlop.errors import MmlopError

LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def read(path: Path | str) -> Image.Image:
    """The picture as RGB, upright. Raises MmlopError, naming the file, if it is missing or no readable picture."""
    try:
        with Image.open(path) as image:
            return rgb(image)
    except FileNotFoundError:
        raise MmlopError(f"The picture {path} does not exist.") from None
    except Exception as error:  # each of Pillow's decoders raises its own kinds; all end here as a sentence
        raise MmlopError(f"{path} is not a readable picture ({error}): replace or remove it.") from error


def rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF orientation, transparency on white, three channels of 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16-bit grey: PIL's own conversion would clip it to white
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare(image: Image.Image, size: int) -> Tensor:
    """Shorter side to ``size`` (bicubic), centre crop: [3, size, size], as open_clip's evaluation transform."""
    resized = tv.resize(image, [size], interpolation=InterpolationMode.BICUBIC)
    prepared: Tensor = tv.pil_to_tensor(tv.center_crop(resized, [size, size]))
    return prepared


def prepare_files(paths: Sequence[Path], size: int) -> Tensor:
    """Prepared pictures [N, 3, size, size]."""
    if not paths:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    return torch.stack([prepare(read(path), size) for path in paths])


def decode(path: Path) -> Tensor:
    """The whole picture [3, H, W], for augmentation from memory."""
    picture: Tensor = tv.pil_to_tensor(read(path))
    return picture


def augment(picture: Tensor, size: int, generator: torch.Generator, smallest: float = 0.08, flip: bool = True) -> Tensor:
    """A random resized crop (bicubic) and a flip of a picture [3, H, W]: [3, size, size].

    ``smallest`` is the least share of the picture's area in a crop.

    The draws are those of torchvision's RandomResizedCrop and RandomHorizontalFlip, from ``generator``.
    """
    top, left, height, width = _crop(picture.shape[1], picture.shape[2], generator, smallest)
    view: Tensor = tv.resized_crop(
        picture, top, left, height, width, [size, size], InterpolationMode.BICUBIC, antialias=True
    )
    return view.flip(-1) if flip and torch.rand((), generator=generator) < 0.5 else view


def _crop(height: int, width: int, generator: torch.Generator, smallest: float = 0.08) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of random area and aspect ratio."""
    for scale, ratio in torch.rand(10, 2, generator=generator).tolist():
        area = height * width * (smallest + scale * (1 - smallest))
        aspect = math.exp(LOG_RATIO[0] + ratio * (LOG_RATIO[1] - LOG_RATIO[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = torch.rand(2, generator=generator).tolist()
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    # No try fitted: the largest centred crop of an allowed aspect ratio.
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w
