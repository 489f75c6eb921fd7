"""What people call the metrics and points of grids."""

from __future__ import annotations

from collections.abc import Sequence

from mmlop.grids.measurements import Measurement
from mmlop.grids.verdicts import reference
from mmlop.methods import METHODS
from mmlop.page.geometry import Series

NAMES = {
    "base": "base",
    "novel": "novel",
    "hm": "HM",
    "accuracy": "accuracy",
    "ece_base": "ECE base",
    "ece_novel": "ECE novel",
    "ece": "ECE",
}
CONSISTENCY = ("text=0", "image=0", "logits=0")  # the terms of the loss that hold to the frozen model
WORDS = {
    "form=low_rank": "no sharing",  # of the up-projection
    "drift_correction=false": "no drift correction",
    "consistency=0": "no consistency",
    "text=0": "no text term",
    "image=0": "no image term",
    "logits=0": "no logits term",
}


def titled(point: str) -> str:
    """A point as people call it: methods by their names, and what is switched off in words.

    >>> titled("coop"), titled("shots=4, coop"), titled("rank=2")
    ('CoOp', 'shots=4, CoOp', 'rank=2')
    >>> titled("form=low_rank, text=0, image=0, logits=0, drift_correction=false")
    'no sharing, no consistency, no drift correction'
    """
    parts = point.replace(", ".join(CONSISTENCY), "consistency=0").split(", ")
    return ", ".join(METHODS[part].title if part in METHODS else WORDS.get(part, part) for part in parts)


def numbered(found: Sequence[Measurement]) -> dict[str, Series]:
    """A series for each point: MMLoP as configured is number 0, the frozen CLIP below 0."""
    ours, series, next_free = reference(found), {}, 1
    for one in found:
        if one.point in series:
            continue
        number = 0 if one.point == ours else -1 if one.method == "zero_shot" else next_free
        next_free += number == next_free
        series[one.point] = Series(titled(one.point), number)
    return series
