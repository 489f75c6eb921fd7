"""What a report says, whether as a page or as Markdown: sections of notes, charts and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from mmlop.page.geometry import Chart
from mmlop.tables import Table


class Link(NamedTuple):
    """A table's cell that leads somewhere."""

    text: str
    href: str


@dataclass(frozen=True)
class Section:
    title: str
    notes: tuple[str, ...] = ()  # sentences, above everything else
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    small: tuple[str, ...] = ()  # what signs and names mean, below everything else
    panels: tuple[Section, ...] = ()  # of which a reader sees one at a time
    choice: str = ""  # what the selector of panels is labelled
    twin: bool = True  # also in the Markdown: the same bytes on every machine

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"
