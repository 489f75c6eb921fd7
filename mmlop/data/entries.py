"""What a source of one's own pictures lists, before any picture is opened."""

from __future__ import annotations

from dataclasses import dataclass, field

Offender = tuple[str, str]  # a path or a class name, and why it cannot be used


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture as its source lists it."""

    path: str  # from the source's folder, with forward slashes; absolute where it lies elsewhere
    label: str  # the class name
    part: str | None = None  # train, val or test, where the source says so
    line: int | None = None  # of the table
    content: str = ""  # its content hash, once it was read

    @property
    def at(self) -> str:
        """Where the table lists it, to be put behind a reason."""
        return f", line {self.line}" if self.line else ""


@dataclass
class Listed:
    """All that a source lists, in its order, and what is wrong with it at first sight."""

    entries: list[Entry] = field(default_factory=list)
    offenders: list[Offender] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # sorted; also those without a picture
