"""Errors that a user can cause: each carries one sentence (what, where, what to do instead)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MmlopError(Exception):
    """A mistake or a missing thing outside the program; shown as its sentence alone, without a traceback."""


def listing(choices: Iterable[str], wanted: str = "") -> str:
    """The valid names of a closed set for an error message, those nearest to ``wanted`` first.

    >>> listing(["cat", "dog", "horse"], "hrose")
    'horse, cat, dog'
    """
    names = list(choices)
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    return ", ".join(near + [name for name in names if name not in near])
