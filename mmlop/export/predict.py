"""Classify pictures with the exported model beside this file: `python predict.py PICTURES... [--top 5] [--json]`.

It needs onnxruntime, numpy and Pillow, and nothing else: `pip install onnxruntime numpy pillow`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    sys.exit(f"Error: {error.name} is missing: pip install onnxruntime numpy pillow")

HERE = Path(__file__).resolve().parent


class Unreadable(Exception):
    """What is wrong with a picture or with this folder, in one sentence."""


def main() -> None:
    asked = arguments()
    try:
        about = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
        session = load(HERE / asked.model, about)
    except (Unreadable, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    failed = False
    for path in asked.pictures:
        try:
            pixels = prepare(read(path), about["size"])
        except Unreadable as error:
            failed = True
            print(f"Error: {error}", file=sys.stderr)
            continue
        (probabilities,) = session.run(["probabilities"], {"pictures": pixels[None]})
        best = np.argsort(-probabilities[0], kind="stable")[: asked.top]
        found = [(about["labels"][index], float(probabilities[0][index])) for index in best]
        print(line(path, found, asked.json), flush=True)
    sys.exit(1 if failed else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify pictures with the model in this folder.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="labels to show per picture (default: 1)")
    parser.add_argument("--json", action="store_true", help="a JSON object per line, for a script")
    parser.add_argument("--model", default="model.onnx", metavar="FILE", help="another model of this folder")
    asked = parser.parse_args()
    if asked.top < 1:
        parser.error("--top must be at least 1")
    return asked


def load(file: Path, about: dict[str, Any]) -> Any:
    """The model, ready to run."""
    if not file.is_file():
        raise Unreadable(f"There is no model {file}: choose one of {', '.join(sorted(about['models']))}.")
    try:
        import onnxruntime
    except ImportError:
        raise Unreadable("onnxruntime is missing: pip install onnxruntime numpy pillow") from None
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every reason
        raise Unreadable(f"{file} cannot be loaded ({' '.join(str(error).split())}): export it again.") from error


def line(path: str, found: list[tuple[str, float]], as_json: bool) -> str:
    """What is printed of a picture: its labels, most probable first."""
    if as_json:
        return json.dumps({"path": path, "labels": [{"label": label, "score": score} for label, score in found]})
    return f"{path}\t" + "\t".join(f"{label} {100 * score:.1f}%" for label, score in found)


def read(path: str) -> Image.Image:
    """The picture as RGB, upright. Raises Unreadable, naming the file, if it is missing or no readable picture."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"The picture {path} does not exist.") from None
    except OSError as error:
        raise Unreadable(f"{path} is not a readable picture ({error.strerror}): replace or remove it.") from error
    try:
        return decode(data)
    except Exception as error:  # each of Pillow's decoders has its own
        raise Unreadable(f"{path} is not a readable picture ({reason(error)}): replace or remove it.") from error


def decode(data: bytes) -> Image.Image:
    """The bytes of a picture file as `rgb` gives them."""
    with Image.open(io.BytesIO(data)) as image:
        pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        if limit and pixels > limit:  # Pillow itself only warns up to twice the limit
            raise Image.DecompressionBombError(f"Image size ({pixels} pixels) exceeds limit of {limit} pixels")
        return rgb(image)


def reason(error: Exception) -> str:
    """Why `decode` failed, in words that are the same for the same file."""
    if isinstance(error, UnidentifiedImageError):  # its own words name an address in memory
        return "of no known kind"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return re.sub(", could be.*", "", str(error))
    return " ".join(str(error).split()) or type(error).__name__


def rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF orientation, transparency on white, three channels of 8 bits."""
    if image.mode == "F" or (image.mode == "I" and not fits_bytes(image)):
        raise Unreadable(f"its grey values, of mode {image.mode}, have no agreed range: save it with 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion would clip it to white
        if image.mode != "I;16":  # big-endian, which point() cannot do
            image = image.convert("I")
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fits_bytes(image: Image.Image) -> bool:
    darkest, brightest = image.getextrema()
    return bool(darkest >= 0 and brightest <= 255)  # type: ignore[operator]


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side to `size` (bicubic), then the centre: uint8 [3, size, size]. The model normalises it itself."""
    width, height = image.size
    short, long = sorted(image.size)
    longer = int(size * long / short)
    resized = (size, longer) if width <= height else (longer, size)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized)
    return np.ascontiguousarray(np.asarray(image)[top : top + size, left : left + size].transpose(2, 0, 1))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever reads had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
