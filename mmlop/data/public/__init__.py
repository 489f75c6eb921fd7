"""The public data sets of the prompt-learning literature, with the splits that papers use."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mmlop import config
from mmlop.data import hashes
from mmlop.data.download import unwritable
from mmlop.data.manifest import PARTS, Contents, Picture
from mmlop.data.public import layouts, obtaining, splitfile
from mmlop.data.public.catalogue import SPECS
from mmlop.data.public.record import Parts, Public

__all__ = ["SPECS", "Public", "contents", "home", "pictures"]

HASHES = ".hashes.sqlite"  # in a data set's folder: what its pictures are, so that they need not be read again


def home() -> Path:
    """Where the public data sets are, each in CoOp's folder for it: MMLOP_DATA, else .mmlop/data in the project."""
    given = os.environ.get("MMLOP_DATA")
    return Path(given).expanduser().absolute() if given else config.home() / ".mmlop" / "data"


def pictures(spec: Public, home: Path) -> Path:
    """The folder that the paths of the data set's manifest start from."""
    return home / spec.folder / spec.pictures


def contents(spec: Public, home: Path, own_split: bool) -> Contents:
    """Download and unpack what is missing of a data set below ``home``, and read what is in it.

    With ``own_split`` another split than the one that papers use will do, where that one is not to be had.
    Raises MmlopError if the split, or pictures, cannot be had, and where a file, or the number of pictures, is not as
    published.
    """
    where = home / spec.folder
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(where, error) from error
    if (found := splitfile.find(spec, where, own_split)) is not None:
        parts, published = found
        obtaining.obtain(spec, where, lambda _: parts)  # how many there are is as the split file says
    else:
        failures = obtaining.fetch_annotations(spec, where)
        parts = layouts.divide(obtaining.obtain(spec, where, spec.layout, failures, least=sum(spec.counts)))
        if published := spec.split is None:
            obtaining.refuse_more(spec, where, parts)
    hashed = _hashed(parts, pictures(spec, home), where / HASHES)
    names = {item.label: item.name for items in parts.values() for item in items}
    return Contents(
        tuple(names[label] for label in range(spec.classes)),
        _hold_out(hashed, spec.held_out),
        "published" if published else "own",
    )


def _hashed(parts: Parts, folder: Path, database: Path) -> tuple[Picture, ...]:
    """The pictures in the order of their parts."""
    rows = [(part, item) for part in PARTS for item in parts[part]]
    found = hashes.of(folder, [item.path for _, item in rows], database)
    return tuple(Picture(item.path, item.label, part, content) for (part, item), content in zip(rows, found, strict=True))


def _hold_out(pictures: tuple[Picture, ...], count: int) -> tuple[Picture, ...]:
    """Turn ``count`` training pictures of each class, at most a fifth of them, into validation pictures: those with the
    least content hashes, which depends on nothing but the pictures."""
    if not count:
        return pictures
    groups: dict[int, list[Picture]] = {}
    for picture in pictures:
        if picture.part == "train":
            groups.setdefault(picture.label, []).append(picture)
    held = {
        picture.path
        for group in groups.values()
        for picture in sorted(group, key=lambda p: (p.content, p.path))[: min(count, len(group) // 5)]
    }
    moved = (replace(picture, part="val") if picture.path in held else picture for picture in pictures)
    return tuple(sorted(moved, key=lambda picture: PARTS.index(picture.part)))
