"""What may be given for a picture: a path, a `file://` URL, the bytes of a picture file, a PIL image, or an array.

Arrays are uint8: [H, W, 3], grey [H, W], or several pictures of one size [N, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from mmlop.data import reading
from mmlop.errors import MmlopError

PictureLike = str | Path | bytes | bytearray | memoryview | Image.Image | np.ndarray


def each(pictures: PictureLike | Iterable[PictureLike]) -> Iterable[PictureLike]:
    """The pictures one by one, where one or many are given."""
    if isinstance(pictures, np.ndarray):
        return pictures if pictures.ndim == 4 else (pictures,)
    if isinstance(pictures, str | Path | bytes | bytearray | memoryview | Image.Image):
        return (pictures,)
    if not isinstance(pictures, Iterable):
        raise MmlopError(f"A {type(pictures).__name__} is no picture: give {WANTED}.")
    return pictures


def open_picture(picture: PictureLike) -> Image.Image:
    """The picture as an upright RGB image. Raises MmlopError, saying what is wrong with it, where it cannot be read."""
    if isinstance(picture, str) and "://" in picture:
        return reading.read(local_file(picture))
    if isinstance(picture, str | Path):
        return reading.read(picture)
    if isinstance(picture, Image.Image):
        return reading.rgb(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if not isinstance(picture, bytes | bytearray | memoryview):
        raise MmlopError(f"A {type(picture).__name__} is no picture: give {WANTED}.")
    data = bytes(picture)
    try:
        return reading.decode(data)
    except Exception as error:  # each of Pillow's decoders has its own
        raise MmlopError(f"{len(data)} bytes were given that are no readable picture ({reading.reason(error)}).") from error


def local_file(url: str) -> Path:
    """The file behind a `file://` URL. Raises MmlopError for any other kind: nothing is fetched from elsewhere."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise MmlopError(f"'{url}' is not on this machine: download it first, and give its path or a file:// URL.")
    return Path(url2pathname(parts.path))


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] == 3)) or 0 in shape:
        raise MmlopError(f"An array of {array.dtype} {shape} is no picture: give uint8 [H, W, 3] or [H, W].")
    return Image.fromarray(array).convert("RGB")


WANTED = "a path, a file:// URL, the bytes of a picture file, a PIL image or a uint8 array [H, W, 3]"
