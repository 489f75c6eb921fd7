"""Pictures as a model is shown them: prepared for evaluation, augmented for training.

Pictures travel as uint8 tensors [3, H, W]; normalisation happens on the model's device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mmlop import cache
from mmlop.data.manifest import Fetched, Picture
from mmlop.data.reading import load, read, rgb

__all__ = ["augment", "decode", "load", "prepare", "prepare_all", "read", "rgb"]

AHEAD = 256  # pictures prepared before they are written
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def prepare(image: Image.Image, size: int) -> Tensor:
    """Shorter side to ``size`` (bicubic), centre crop: [3, size, size], as open_clip's evaluation transform."""
    resized = tv.resize(image, [size], interpolation=InterpolationMode.BICUBIC)
    prepared: Tensor = tv.pil_to_tensor(tv.center_crop(resized, [size, size]))
    return prepared


def prepare_all(data: Fetched, pictures: Sequence[Picture], size: int) -> Tensor:
    """Prepared pictures [N, 3, size, size] of a fetched data set: decoded the first time, mapped from the cache ever after,
    whatever their number."""

    def fill(target: np.ndarray) -> None:
        def one(picture: Picture) -> np.ndarray:
            return prepare(load(data.file(picture), picture.content), size).numpy()

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and resizes outside Python's lock
            for start in range(0, len(pictures), AHEAD):  # so that it does not run ahead of the disk
                for index, prepared in enumerate(pool.map(one, pictures[start : start + AHEAD]), start):
                    target[index] = prepared

    if not pictures:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    libraries = [version("pillow"), version("torchvision")]
    code = cache.sources("data/pictures.py", "data/reading.py")
    about = [[picture.content for picture in pictures], libraries, code]
    return cache.tensor("pictures", about, (len(pictures), 3, size, size), "uint8", fill)


def decode(data: Fetched, picture: Picture, least: int | None = None) -> Tensor:
    """The whole picture [3, H, W], for augmentation from memory.

    One whose shorter side has twice ``least`` pixels or more is made smaller by a whole factor: the twelve megapixels of a
    photograph serve no view of 224 x 224.
    """
    image = load(data.file(picture), picture.content)
    if least and (factor := min(image.size) // least) > 1:
        image = image.reduce(factor)
    whole: Tensor = tv.pil_to_tensor(image)
    return whole


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
