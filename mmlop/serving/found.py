"""What a name stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmlop.errors import MmlopError

LONG = 100  # characters of a request's name that a message repeats at most


class UnknownAdapter(MmlopError):
    """No adapter goes by this name."""


@dataclass(frozen=True)
class Found:
    """An adapter as it is now."""

    name: str  # the one it is listed by, whichever of its names was used
    folder: Path
    identity: str  # see `mmlop.adapter.identity`
    version: int | None  # None where it is not a registered one
    uri: str  # what will find the same adapter again: a version rather than an alias
