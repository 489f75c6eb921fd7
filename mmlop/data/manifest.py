"""A manifest: the one form in which every data set, wherever it comes from, reaches the rest of the project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmlop.errors import MmlopError
from mmlop.files import dump_json, write_text

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Picture:
    path: str  # relative to the data set's folder, with forward slashes
    label: int
    part: str  # train, val or test
    content: str  # first 16 hex digits of the file's SHA-256


# How a data set came to its parts. Only `published` numbers compare with those of papers.
SPLITS = {
    "rendered": "drawn part by part",
    "published": "the split that papers use",
    "own": "a split of one's own: numbers do not compare with those of papers",
    "given": "parts as the table gives them",
    "content": "parts by content hash, 50/20/30 %",
    "k-fold": "too few pictures in some class for parts: all may be trained on, accuracy is an estimate by k-fold",
}


@dataclass(frozen=True)
class Contents:
    """What a source has to say about a data set's pictures."""

    classes: tuple[str, ...]  # the position is the label
    pictures: tuple[Picture, ...]
    split: str  # one of SPLITS
    skipped: tuple[tuple[str, str], ...] = ()  # path and reason of what was left out


@dataclass(frozen=True)
class Manifest:
    """What is in a data set. Pictures keep the order of their source, since few-shot draws depend on it."""

    name: str
    classes: tuple[str, ...]  # the position is the label
    template: str
    licence: str
    source: str
    pictures: tuple[Picture, ...]
    split: str = "given"  # one of SPLITS
    skipped: tuple[tuple[str, str], ...] = ()  # path and reason of what was left out

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of everything above."""
        return hashlib.sha256(json.dumps(self._fields(), sort_keys=True).encode()).hexdigest()

    def of(self, part: str, labels: Iterable[int] | None = None) -> list[Picture]:
        """The pictures of a part, of some labels only."""
        wanted = set(range(len(self.classes)) if labels is None else labels)
        return [picture for picture in self.pictures if picture.part == part and picture.label in wanted]

    def save(self, file: Path) -> None:
        """JSON with a line per picture: a set may have a million."""
        fields = self._fields() | {"hash": self.hash}
        rows = [json.dumps(row, ensure_ascii=False) for row in fields.pop("pictures")]
        head = dump_json(fields).rstrip().removesuffix("}").rstrip()
        write_text(file, f'{head},\n  "pictures": [\n    ' + ",\n    ".join(rows) + "\n  ]\n}\n")

    @classmethod
    def load(cls, file: Path) -> Manifest:
        """Raises MmlopError if the file is missing, damaged, or does not carry its own hash."""
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            claimed = stored.pop("hash")
            pictures = tuple(Picture(*row) for row in stored.pop("pictures"))
            skipped = tuple((path, reason) for path, reason in stored.pop("skipped"))
            manifest = cls(**stored | {"classes": tuple(stored["classes"]), "pictures": pictures, "skipped": skipped})
        except FileNotFoundError:
            raise MmlopError(f"{file} does not exist: fetch the data set first (`mmlop data fetch NAME`).") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MmlopError(f"{file} is not a manifest ({error}): fetch the data set again.") from error
        if manifest.hash != claimed:
            raise MmlopError(f"{file} was changed after it was written: fetch the data set again.")
        return manifest

    def _fields(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "classes": list(self.classes),
            "template": self.template,
            "licence": self.licence,
            "source": self.source,
            "split": self.split,
            "skipped": [list(pair) for pair in self.skipped],
            "pictures": [[p.path, p.label, p.part, p.content] for p in self.pictures],
        }


@dataclass(frozen=True)
class Fetched:
    """A data set on this machine: its manifest, and the folder that the paths in it start from."""

    manifest: Manifest
    folder: Path

    def file(self, picture: Picture) -> Path:
        return self.folder / picture.path


def content_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
