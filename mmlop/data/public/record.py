"""What is known of a public data set: one record holds all that differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mmlop.data.download import Remote


class Item(NamedTuple):
    """A picture of a split: the row of CoOp's split files."""

    path: str  # below the folder of pictures, with forward slashes
    label: int
    name: str  # of the class


# By part: train, val and test; or, before a split, `trainval` (to be split 80/20) and `all` (50/20/30).
Parts = Mapping[str, list[Item]]
Layout = Callable[[Path], Parts]  # reads the data set's folder; MmlopError where it does not hold what it should


@dataclass(frozen=True)
class Annotations:
    """Files beside the pictures that a layout reads."""

    remote: Remote  # an archive, or the one file itself
    files: tuple[str, ...]  # below the data set's folder


@dataclass(frozen=True)
class Public:
    """One public data set: what it shows, where its files are, and how they say what is of which class."""

    name: str
    title: str  # as papers write it
    description: str
    classes: int
    counts: tuple[int, int, int]  # pictures in train, val and test
    template: str
    licence: str
    page: str  # where it comes from
    folder: str  # CoOp's name for it, below the data home
    pictures: str  # the folder below that which picture paths start from
    gigabytes: float  # of its archives, roughly
    layout: Layout
    # Alternatives, the best first: each a group of archives that together hold the pictures.
    sources: tuple[tuple[Remote, ...], ...]
    # What to unpack where no list says which pictures: folders and files of the archives, and where each belongs.
    keep: Mapping[str, str] = field(default_factory=dict)
    inside: str | None = None  # an archive within the archive that holds the pictures
    arrange: Callable[[Public, Path], None] | None = None  # puts by-hand archives into place, instead of any download
    split: Remote | None = None  # CoOp's split file
    annotations: tuple[Annotations, ...] = ()
    kept: float = 1.0  # the share of the archives' contents that the split names
    had: str = "automatic"  # how one comes by the pictures
    step: str | None = None  # what has to be done by hand
    variant_of: str | None = None  # the data set whose classes it shows otherwise
    held_out: int = 0  # training pictures per class set aside for validation, where there is no such part
