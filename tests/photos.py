"""Pictures of one's own for tests: each number another picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(file: Path, number: int, size: tuple[int, int] = (9, 8)) -> Path:
    """A picture file of coloured noise, the same bytes for the same number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file


def photos(folder: Path, classes: dict[str, int]) -> Path:
    """A folder per class with so many pictures, named 0.png, 1.png, ..., all of them different."""
    number = 0
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            photo(folder / name / f"{index}.png", number)
            number += 1
    return folder
