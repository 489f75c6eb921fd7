"""Measurements of a grid, as `mmlop benchmark` leaves them: a file for every point and data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mmlop.errors import MmlopError


class Outcome(BaseModel):
    """One training of one seed."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    shots: int
    metrics: dict[str, FiniteFloat]
    shown: dict[str, Any] = {}  # by base, novel: reliability, confusion


class Measurement(BaseModel):
    """A point of a grid on a data set: ``results/benchmark/<grid>/<point>/<dataset>.json``."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    grid: str
    point: str
    overrides: dict[str, Any]
    dataset: str
    method: str
    shots: int
    trainable: int
    seconds: FiniteFloat  # wall, all seeds
    gigabytes: FiniteFloat | None = None  # peak
    mlflow_run: str | None = None
    source: str = ""
    split: str = ""
    licence: str = ""
    base: tuple[str, ...] = ()  # class names
    novel: tuple[str, ...] = ()
    zero_shot: dict[str, FiniteFloat] = {}
    seeds: dict[int, tuple[Outcome, ...]] = Field(min_length=1)


def read(folder: Path, points: Sequence[str] | None = None) -> list[Measurement]:
    """The measurements of a grid by point and data set: of ``points`` alone, in their order, or of all that there are, by
    name (numbers by value). Raises MmlopError where there are none, one is damaged, or two are of the same point and data
    set."""
    found: dict[tuple[str, str], tuple[Measurement, Path]] = {}
    for file in sorted(folder.glob("*/*.json")):
        one = _parse(file)
        _, twin = found.setdefault((one.point, one.dataset), (one, file))
        if twin != file:
            raise MmlopError(f"{twin} and {file} are both of {one.point} on {one.dataset}: remove one of them.")
    order = sorted({point for point, _ in found}, key=_by_value) if points is None else list(points)
    kept = [one for one, _ in found.values() if one.point in order]
    if not kept:
        raise MmlopError(f"There are no measurements in {folder}: run `mmlop benchmark {folder.name}` first.")
    return sorted(kept, key=lambda one: (order.index(one.point), one.dataset))


def _by_value(name: str) -> list[str | int]:
    """Text and digits in turn, so that like is compared with like.

    >>> sorted(["rank=10", "rank=2"], key=_by_value)
    ['rank=2', 'rank=10']
    """
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]


def _parse(file: Path) -> Measurement:
    try:
        return Measurement.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise MmlopError(f"{file} is damaged ({what}): remove it and run `mmlop benchmark` again.") from None
