"""Your own pictures: a folder per class, or a table. They are referred to where they are and never copied."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmlop import config
from mmlop.config import Source
from mmlop.data import check, table
from mmlop.data.entries import Entry, Listed, Offender
from mmlop.data.manifest import Contents, Picture
from mmlop.data.parts import FEWEST, assign, once, part_of
from mmlop.errors import MmlopError

__all__ = ["SUFFIXES", "base", "contents", "count", "location", "part_of", "picture_files"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SHOWN = 10  # offenders named in a message
NOWHERE = "a link that leads nowhere"

logger = logging.getLogger(__name__)


def location(source: Source) -> Path:
    """The folder or the table of a source; a relative path starts at the project."""
    return config.root() / os.path.expanduser(source.folder or source.table or "")


def base(source: Source) -> Path:
    """The folder that the paths of a source's pictures start from."""
    return location(source) if source.folder else location(source).parent


def count(source: Source) -> int | None:
    """How many classes a source has, all of them counted, usable or not; None if it cannot be read now."""
    try:
        place = location(source)
        return len(class_folders(place)) if source.folder else len(table.read(place).classes)
    except MmlopError:
        return None


def contents(name: str, source: Source, tested_only: bool = False) -> Contents:
    """Everything usable in a source; each picture is opened and decoded once.

    Raises MmlopError that names what cannot be used, unless the source says to skip it; in any case for fewer than two
    usable classes, and where it gives parts but no training pictures (unless it is ``tested_only``) or no test pictures.
    """
    place = location(source)
    good, offenders = check.usable(base(source), _listed(place) if source.folder else table.read(place))
    if offenders and not source.skip_bad:
        raise MmlopError(
            f"{name}: {len(offenders)} of the pictures and classes in {place} cannot be used, {_shown(offenders)}: "
            f"correct them, or leave them out with --skip-bad."
        )
    classes = tuple(sorted({entry.label for entry in good}))
    if len(classes) < 2:
        raise MmlopError(f"{name}: {place} has {len(classes)} classes with usable pictures, but needs two at least.")
    kept, copies = once(good)
    if offenders:
        logger.warning("%s: %d left out as they cannot be used, %s", name, len(offenders), _shown(offenders))
    if copies:
        logger.warning("%s: %d pictures left out as they are in another part too, %s", name, len(copies), _shown(copies))
    parted, split = assign(kept)
    if split == "given":
        _require_parts(name, place, parted, ("test",) if tested_only else ("train", "test"))
    if split == "k-fold":
        _warn_of_few(name, parted)
    labels = {label: number for number, label in enumerate(classes)}
    pictures = tuple(Picture(one.path, labels[one.label], str(one.part), one.content) for one in parted)
    return Contents(classes, pictures, split, (*offenders, *copies))


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder and below, sorted, hidden ones left out; links are followed, but not in circles.

    Raises MmlopError for a folder that cannot be read.
    """
    found = list(_walk(folder))
    for path, problem in found:
        if problem:
            raise MmlopError(f"The folder {path} {problem}.")
    return [path for path, _ in found]


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted. Raises MmlopError if it cannot be read."""
    try:
        return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise MmlopError(f"The picture folder {folder} does not exist: correct its path.") from None
    except OSError as error:
        raise MmlopError(f"The picture folder {folder} cannot be read: {error.strerror}.") from error


def _require_parts(name: str, place: Path, entries: list[Entry], needed: tuple[str, ...]) -> None:
    """A data set that cannot be trained on, or never be tested, should say so before hours of work."""
    given = {entry.part for entry in entries}
    if missing := [part for part in needed if part not in given]:
        alone = "; a data set that is only tested on belongs under test_sets in params.yaml" if "train" in missing else ""
        raise MmlopError(
            f"{name}: {place} gives every picture a part, but none the part {' or '.join(missing)}: give some that part, "
            f"or leave the column away, and parts are made by content{alone}."
        )


def _warn_of_few(name: str, entries: list[Entry]) -> None:
    """One small class, perhaps a new one, takes the test part away from all of them: nobody should learn that late."""
    counts = Counter(entry.label for entry in entries)
    few = [f"{check.printable(label)} ({count})" for label, count in sorted(counts.items()) if count < FEWEST]
    more = f" and {len(few) - SHOWN} more classes" if len(few) > SHOWN else ""
    logger.warning(
        "%s: there are fewer than %d pictures of %s, so the data set has no parts: all its pictures may be trained on, "
        "none is kept for testing, and accuracy is an estimate by k-fold; give these classes %d pictures, or leave them "
        "out",
        name,
        FEWEST,
        ", ".join(few[:SHOWN]) + more,
        FEWEST,
    )


def _listed(folder: Path) -> Listed:
    listed = Listed(classes=class_folders(folder))
    if len(listed.classes) < 2:
        raise MmlopError(
            f"{folder} holds {len(listed.classes)} class folders: it needs one folder of pictures per class, two at least."
        )
    if all(name.lower() in table.PART_OF and class_folders(folder / name) for name in listed.classes):
        raise MmlopError(
            f"The folders in {folder} are parts rather than classes ({', '.join(listed.classes)}): make a table with the "
            f"columns path, label and split for it."
        )
    lost = (one for one in sorted(folder.iterdir()) if _leads_nowhere(one) and not one.name.startswith("."))
    listed.offenders += [(one.name, NOWHERE) for one in lost]
    for name in listed.classes:
        for file, problem in _walk(folder / name, (_identity(folder),)):
            path = file.relative_to(folder).as_posix()
            if problem:
                listed.offenders.append((path, problem))
            else:
                listed.entries.append(Entry(path, name))
    return listed


def _walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[Path, str]]:
    """The picture files in a folder and below, sorted, each with ""; what cannot be followed, with the reason."""
    try:
        here = _identity(folder)
        inside = sorted(os.scandir(folder), key=lambda one: one.name)
    except OSError as error:
        yield folder, f"cannot be read: {error.strerror}"
        return
    if here in above:  # a link back to a folder that this one is in
        return
    for one in inside:
        if one.name.startswith("."):
            continue
        if _is_folder(one):
            yield from _walk(Path(one.path), (*above, here))
        elif (suffix := Path(one.name).suffix.lower()) in SUFFIXES:
            yield Path(one.path), ""
        elif not suffix and _leads_nowhere(one):  # it may have been a folder
            yield Path(one.path), NOWHERE


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _leads_nowhere(one: os.DirEntry[str] | Path) -> bool:
    return one.is_symlink() and not os.path.exists(one)


def _is_folder(one: os.DirEntry[str]) -> bool:
    try:
        return one.is_dir()
    except OSError:  # a link to itself
        return False


def _shown(offenders: list[Offender]) -> str:
    more = f"; and {len(offenders) - SHOWN} more" if len(offenders) > SHOWN else ""
    return "; ".join(f"{path} ({reason})" for path, reason in offenders[:SHOWN]) + more
