"""Your own pictures: a folder with one folder per class."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmlop.data.manifest import Picture, content_of
from mmlop.errors import MmlopError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SHARES = ((0.5, "train"), (0.7, "val"), (1.0, "test"))  # 50 / 20 / 30 %, by content


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder and below, sorted, hidden ones left out."""
    inside = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(file for file in inside if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders, sorted. Raises MmlopError if there is no such folder, or fewer than two classes in it."""
    if not folder.is_dir():
        raise MmlopError(f"The picture folder {folder} does not exist: correct its entry under `sources` in params.yaml.")
    names = tuple(sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")))
    if len(names) < 2:
        raise MmlopError(
            f"{folder} holds {len(names)} class folders: it needs one folder of pictures per class, two at least."
        )
    return names


def part_of(content: str) -> str:
    """The part of a picture by its content hash alone, so that a growing folder never moves one between parts."""
    position = int(content[:8], 16) / 16**8  # below 1 exactly, which all 16 digits as a float are not
    return next(part for limit, part in SHARES if position < limit)


def fill(source: Path, target: Path) -> tuple[Picture, ...]:
    """Copy the pictures of every class into ``target``. The same picture twice is taken once.

    Raises MmlopError for the same picture in two classes.
    """
    pictures: dict[str, Picture] = {}
    for label, name in enumerate(class_names(source)):
        for file in picture_files(source / name):
            content = content_of(file.read_bytes())
            path = file.relative_to(source).as_posix()
            if (known := pictures.get(content)) is None:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / path)
                pictures[content] = Picture(path, label, part_of(content), content)
            elif known.label != label:
                raise MmlopError(f"{source / known.path} and {file} are the same picture in two classes: remove one.")
    return tuple(pictures.values())
