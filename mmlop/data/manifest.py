"""A manifest: the one form in which every data set, wherever it comes from, reaches the rest of the project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Manifest:
    """What is in a data set. Pictures keep the order of their source, since few-shot draws depend on it."""

    name: str
    classes: tuple[str, ...]  # the position is the label
    template: str
    licence: str
    source: str
    pictures: tuple[Picture, ...]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of everything above."""
        return hashlib.sha256(json.dumps(self._fields(), sort_keys=True).encode()).hexdigest()

    def of(self, part: str, labels: Iterable[int] | None = None) -> list[Picture]:
        """The pictures of a part, of some labels only."""
        wanted = set(range(len(self.classes)) if labels is None else labels)
        return [picture for picture in self.pictures if picture.part == part and picture.label in wanted]

    def save(self, file: Path) -> None:
        write_text(file, dump_json(self._fields() | {"hash": self.hash}))

    @classmethod
    def load(cls, file: Path) -> Manifest:
        """Raises MmlopError if the file is missing, damaged, or does not carry its own hash."""
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            claimed = stored.pop("hash")
            pictures = tuple(Picture(*row) for row in stored.pop("pictures"))
            manifest = cls(**stored | {"classes": tuple(stored["classes"]), "pictures": pictures})
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
            "pictures": [[p.path, p.label, p.part, p.content] for p in self.pictures],
        }


def content_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
