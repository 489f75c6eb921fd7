"""Measurements of a grid, as `mmlop benchmark` leaves them: a file for every point and data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mmlop.errors import MmlopError
from mmlop.files import dump_json, write_text

FOLDER = Path("results") / "benchmark"  # of a project: <grid>/<point>/<dataset>.json


class Outcome(BaseModel):
    """One training of one seed."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    shots: int
    epochs: int
    metrics: dict[str, FiniteFloat]
    shown: dict[str, Any] = {}  # by base, novel: reliability, confusion


class Measurement(BaseModel):
    """A point of a grid on a data set: what was set, what came out for every seed, what the frozen CLIP reaches on the same
    pictures, and what it took. Further keys of a file, which earlier versions wrote, are passed over."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    key: str  # of everything that decides it
    code: str | None = None  # of the source code alone; None: not known
    grid: str
    point: str
    overrides: dict[str, Any]
    dataset: str
    method: str
    part: str
    shots: int
    settings: dict[str, Any]
    trainings: list[dict[str, Any]] | None = None  # None: not known
    trainable: int
    seconds: FiniteFloat  # wall, all seeds
    gigabytes: FiniteFloat | None = None  # peak
    source: str = ""
    split: str = ""
    licence: str = ""
    data_hash: str = ""
    split_hash: str = ""
    backbone: dict[str, Any] = {}
    mode: dict[str, Any] = {}  # by what it was computed
    base: tuple[str, ...] = ()  # class names
    novel: tuple[str, ...] = ()
    zero_shot: dict[str, FiniteFloat] = {}
    seeds: dict[int, tuple[Outcome, ...]] = Field(min_length=1)


def write(file: Path, one: Measurement) -> None:
    """In one step; a row of numbers, such as a matrix has many of, on a line of its own."""
    text = dump_json(one.model_dump(mode="json"))
    # Within the quotes of a text no line ends, so these are lists of JSON.
    write_text(file, re.sub(r"\[\n([^\[\]{}\"]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text))


def parse(file: Path) -> Measurement:
    """Raises MmlopError for a damaged file, FileNotFoundError for none."""
    try:
        return Measurement.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise MmlopError(f"{file} is damaged ({what}): remove it and run `mmlop benchmark` again.") from None


def read(folder: Path, points: Sequence[str] | None = None) -> list[Measurement]:
    """The measurements of a grid by point and data set: of ``points`` alone, in their order, or of all that there are, by
    name (numbers by value). Raises MmlopError where there are none, one is damaged, or two are of the same point and data
    set."""
    found: dict[tuple[str, str], tuple[Measurement, Path]] = {}
    for file in sorted(folder.glob("*/*.json")):
        one = parse(file)
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
