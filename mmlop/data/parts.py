"""The parts of one's own pictures: as given, by content hash, or none where there are too few pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from mmlop.data.entries import Entry, Offender

SHARES = ((0.5, "train"), (0.7, "val"), (1.0, "test"))  # 50 / 20 / 30 %, by content
FEWEST = 8  # pictures of a class that three parts can be made of
STRONGEST = ("test", "val", "train", None)  # the part that keeps a picture listed in several


def part_of(content: str) -> str:
    """The part of a picture by its content hash alone, so that a growing folder never moves one between parts."""
    position = int(content[:8], 16) / 16**8  # below 1 exactly, which all 16 digits as a float are not
    return next(part for limit, part in SHARES if position < limit)


def once(entries: Iterable[Entry]) -> tuple[list[Entry], list[Offender]]:
    """Each picture of a class once, and the copies dropped because another part has the picture too.

    Of copies in several parts the one for testing stays: a published test part should stay whole, and a picture that was
    trained on must not be tested on.
    """
    copies: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        copies[entry.content].append(entry)
    kept, dropped = [], []
    for same in copies.values():
        first = min(same, key=lambda entry: STRONGEST.index(entry.part))  # min() takes the first of equals
        kept.append(first)
        dropped += [
            (entry.path, f"the same picture as {first.path} ({first.part})") for entry in same if entry.part != first.part
        ]
    return kept, dropped


def assign(entries: list[Entry]) -> tuple[list[Entry], str]:
    """The pictures with their parts, and the kind of split (one of manifest.SPLITS)."""
    if all(entry.part for entry in entries):
        return entries, "given"
    by_class: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_class[entry.label].append(entry)
    if min(map(len, by_class.values())) < FEWEST:
        return [replace(entry, part="train") for entry in entries], "k-fold"
    moved = _moved([[entry.content for entry in own] for own in by_class.values()])
    parts = (moved.get(entry.content) or part_of(entry.content) for entry in entries)
    return [replace(entry, part=part) for entry, part in zip(entries, parts, strict=True)], "content"


def _moved(classes: list[list[str]]) -> dict[str, str]:
    """The contents, of those of each class, that are in another part than their hash says, and in which.

    Something must be there to train on in every class, and to test on at all. Once k-fold is behind a data set, this is
    the only way in which a picture can change its part: it goes back to its own as soon as there are others for it.
    """
    moved = {min(own): "train" for own in classes if not any(part_of(content) == "train" for content in own)}
    if not any(part_of(content) == "test" for own in classes for content in own):
        # As no hash says test, the largest of a class is one for validation, or else of a class that has training
        # pictures only: with FEWEST of them, it never is the one that the class is trained on.
        moved[max(max(own) for own in classes if len(own) == max(map(len, classes)))] = "test"
    return moved
