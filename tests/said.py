"""What a command said, and that it was one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Run = Callable[..., Said]


def error(said: Said) -> str:
    """The sentence on standard error; nothing else may be there, and nothing on standard output."""
    assert said.code == 1
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    return said.err
