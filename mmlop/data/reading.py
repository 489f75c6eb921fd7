"""Reading pictures: whatever the kind of file, an upright RGB image or a reason why not. Pillow alone, no torch."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import cast

from PIL import Image, ImageOps, UnidentifiedImageError

from mmlop.data.manifest import content_of
from mmlop.errors import MmlopError

QUICK = (64, 64)  # a JPEG may be decoded smaller than it is, but no smaller than this


def read(path: Path | str) -> Image.Image:
    """The picture as RGB, upright. Raises MmlopError, naming the file, if it is missing or no readable picture."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MmlopError(f"The picture {path} does not exist.") from None
    except OSError as error:
        raise MmlopError(f"{path} is not a readable picture ({error.strerror}): replace or remove it.") from error
    return _decoded(data, path)


def load(file: Path, content: str) -> Image.Image:
    """The picture as ``read`` gives it, if it is still the one with this content hash (``manifest.content_of``).

    Raises MmlopError if it is missing, changed since the data set was fetched, or no readable picture.
    """
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MmlopError(
            f"The picture {file} is not, or no longer, on this machine: fetch its data set again (`mmlop data fetch NAME`)."
        ) from None
    except OSError as error:
        raise MmlopError(f"The picture {file} cannot be read ({error.strerror}): make it readable.") from error
    if content_of(data) != content:
        raise MmlopError(
            f"The picture {file} changed since its data set was fetched: fetch it again (`mmlop data fetch NAME`)."
        )
    return _decoded(data, file)


def decode(data: bytes, quick: bool = False) -> Image.Image:
    """The bytes of a picture file as ``rgb`` gives them; a big JPEG smaller than it is where ``quick`` will do.

    Raises exceptions of many kinds, as each of Pillow's decoders has its own: see ``reason``.
    """
    with Image.open(io.BytesIO(data)) as image:
        pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        if limit and pixels > limit:  # Pillow itself only warns up to twice the limit
            raise Image.DecompressionBombError(f"Image size ({pixels} pixels) exceeds limit of {limit} pixels")
        if quick:
            image.draft(None, QUICK)
        return rgb(image)


def reason(error: Exception) -> str:
    """Why ``decode`` failed, in words that are the same for the same file."""
    if isinstance(error, UnidentifiedImageError):  # its own words name an address in memory
        return "of no known kind"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return re.sub(", could be.*", "", str(error))
    return " ".join(str(error).split()) or type(error).__name__


def rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF orientation, transparency on white, three channels of 8 bits.

    Raises MmlopError for numbers of no agreed range, as scientific TIFF files have.
    """
    if image.mode == "F" or (image.mode == "I" and not _bytes(image)):
        raise MmlopError(f"its grey values, of mode {image.mode}, have no agreed range: save it with 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16-bit grey: PIL's own conversion would clip it to white
        if image.mode != "I;16":  # big-endian, which point() cannot do
            image = image.convert("I")
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _bytes(image: Image.Image) -> bool:
    darkest, brightest = cast(tuple[int, int], image.getextrema())
    return darkest >= 0 and brightest <= 255


def _decoded(data: bytes, path: Path | str) -> Image.Image:
    try:
        return decode(data)
    except Exception as error:
        raise MmlopError(f"{path} is not a readable picture ({reason(error)}): replace or remove it.") from error
