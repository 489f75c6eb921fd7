"""A contact sheet: a few pictures of each class side by side, to see at a glance what a data set holds."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from mmlop.data.manifest import PARTS, Fetched, Manifest, Picture
from mmlop.data.reading import load
from mmlop.data.splits import halves
from mmlop.errors import MmlopError
from mmlop.files import replacing

THUMB, GAP, MARGIN = 96, 6, 14  # pixels
NAME, TITLE = 210, 58  # pixels: width of the column of names, height of the title
INK, PALE, WHITE = (30, 30, 30), (120, 120, 120), (255, 255, 255)
MARKS = {"base": (32, 96, 168), "novel": (200, 104, 16)}
CROSSED = (210, 120, 120)
PLAIN, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"


def sheet(fetched: Fetched, target: Path, per_class: int = 4, classes: int = 25) -> Path:
    """Draw the sheet of a fetched data set as a PNG file ``target``, and return that.

    A row for each class, ``classes`` of them evenly spread where there are more, with ``per_class`` of its training
    pictures (test pictures where the data set has nothing else), always the same ones. A picture that is missing, changed
    or unreadable shows as a crossed box with its name.

    Raises MmlopError where nothing is asked for, or the file cannot be written.
    """
    if per_class < 1 or classes < 1:
        raise MmlopError(f"A sheet of {classes} classes with {per_class} pictures each shows nothing: ask for 1 at least.")
    manifest = fetched.manifest
    part, chosen = _chosen(manifest, per_class)
    labels = _spread(len(manifest.classes), classes)
    columns = max(3, max(len(chosen.get(label, [])) for label in labels))  # a title needs some width
    width = 2 * MARGIN + NAME + columns * (THUMB + GAP)
    page = Image.new("RGB", (width, TITLE + len(labels) * (THUMB + GAP) + MARGIN), WHITE)
    pen = ImageDraw.Draw(page)
    _title(pen, manifest, len(labels), width - 2 * MARGIN)
    for row, label in enumerate(labels):
        top = TITLE + row * (THUMB + GAP)
        _name(pen, manifest, label, part, top)
        for column, picture in enumerate(chosen.get(label, [])):
            page.paste(_thumb(fetched, picture), (MARGIN + NAME + column * (THUMB + GAP), top))
    try:
        with replacing(target) as beside:
            page.save(beside, format="PNG")
    except OSError as error:
        reason = error.strerror or str(error)
        raise MmlopError(f"The contact sheet cannot be written to {target} ({reason}): choose another --sheet.") from error
    return target


def _spread(count: int, wanted: int) -> list[int]:
    return list(range(count)) if count <= wanted else [place * count // wanted for place in range(wanted)]


def _chosen(manifest: Manifest, per_class: int) -> tuple[str, dict[int, list[Picture]]]:
    """The part shown, and the pictures of each label. Their order is that of their contents: as good as random, and a
    growing data set changes little of it."""
    present = {picture.part for picture in manifest.pictures}
    part = next((part for part in ("train", "test") if part in present), "val")
    by_label: dict[int, list[Picture]] = {}
    for picture in manifest.pictures:
        if picture.part == part:
            by_label.setdefault(picture.label, []).append(picture)
    chosen = {label: sorted(own, key=lambda p: (p.content, p.path))[:per_class] for label, own in by_label.items()}
    return part, chosen


def _title(pen: ImageDraw.ImageDraw, manifest: Manifest, shown: int, width: int) -> None:
    """Name, counts and licence, in two lines."""
    counts = Counter(picture.part for picture in manifest.pictures)
    parts = ", ".join(f"{counts[part]} {part}" for part in PARTS if counts[part])
    total = len(manifest.classes)
    classes = f"{total} classes" if shown == total else f"{shown} of {total} classes"
    _write(pen, (MARGIN, 20), manifest.name, BOLD, 17, INK, width)
    _write(pen, (MARGIN, 42), f"{classes}; pictures: {parts}; {manifest.licence}", PLAIN, 11, PALE, width)


def _name(pen: ImageDraw.ImageDraw, manifest: Manifest, label: int, part: str, top: int) -> None:
    """The class at the left of its row. Base and novel are halves of what is trained on: a test set has neither."""
    middle, width = top + THUMB // 2, NAME - 14
    _write(pen, (MARGIN + 10, middle - 8), manifest.classes[label], PLAIN, 14, INK, width)
    if part == "train":
        half = "base" if label in halves(len(manifest.classes))[0] else "novel"
        pen.rectangle((MARGIN, top, MARGIN + 3, top + THUMB - 1), fill=MARKS[half])
        _write(pen, (MARGIN + 10, middle + 12), f"{half}, label {label}", PLAIN, 11, MARKS[half], width)
    else:
        _write(pen, (MARGIN + 10, middle + 12), f"label {label}", PLAIN, 11, PALE, width)


def _thumb(fetched: Fetched, picture: Picture) -> Image.Image:
    """The picture's centre, as a model is shown it."""
    size = (THUMB, THUMB)
    try:
        return ImageOps.fit(load(fetched.file(picture), picture.content), size)
    except MmlopError:
        box = Image.new("RGB", size, (244, 244, 244))
        pen = ImageDraw.Draw(box)
        for line in ((0, 0, THUMB - 1, THUMB - 1), (0, THUMB - 1, THUMB - 1, 0)):
            pen.line(line, fill=CROSSED)
        pen.rectangle((0, 0, THUMB - 1, THUMB - 1), outline=CROSSED)
        name = Path(picture.path).name
        for number, start in enumerate(range(0, min(len(name), 5 * 13), 13)):
            _write(pen, (5, 14 + 16 * number), name[start : start + 13], PLAIN, 10, INK, THUMB - 10)
        return box


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    face: str,
    size: int,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """One line with its left middle at ``place``, cut to ``width`` pixels."""
    text, font = _legible(text, face, size)
    if font.getlength(text) > width:
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        text += "..."
    pen.text(place, text, font=font, fill=colour, anchor="lm")


def _legible(text: str, face: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text and a font that has all of its characters: one shipped with matplotlib, or else one of this machine's.
    Without any, and for what cannot be printed at all, the characters are spelled out as \\uXXXX."""
    import matplotlib

    own = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face)
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    file = next((file for file in (own, *(() if _has(own, text) else _others())) if _has(file, text)), None)
    if file is None:
        text, file = text.encode("unicode_escape").decode(), own
    return text, _font(file, size)


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@cache
def _others() -> tuple[str, ...]:
    """The fonts of this machine, upright ones of usual weight first."""
    from matplotlib.font_manager import FontEntry, fontManager  # reads all fonts of the machine the first time

    def fancy(entry: FontEntry) -> tuple[bool, bool, str]:
        return entry.style != "normal", entry.weight not in (400, "normal", "regular"), entry.fname

    found = dict.fromkeys(entry.fname for entry in sorted(fontManager.ttflist, key=fancy))
    return tuple(file for file in found if "LastResort" not in file)  # which has a mere frame for any character


def _has(file: str, text: str) -> bool:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # gone since matplotlib listed it, or no font
        return False
    return all(font.get_char_index(ord(char)) for char in text)
