"""The points of a grid: a backbone of params.yaml with some keys overridden, validated like params.yaml itself.

What the pipeline is told to train says nothing of a grid: a point starts without params.yaml's method and its settings.
What can be said of a point without measuring it is said here; mmlop/grids/measuring.py measures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mmlop import config, protocols
from mmlop.config import Params
from mmlop.data import datasets
from mmlop.errors import MmlopError, listing
from mmlop.grids.section import Grid
from mmlop.protocols import Training
from mmlop.settings import SECTIONS

Overrides = dict[str, Any]  # dotted key of params.yaml -> value
METHOD = "mmlop"  # of a point that names none

# What a point does not take from params.yaml: what the pipeline trains and measures, and the grids themselves.
PIPELINES = ("method", *SECTIONS, "protocols", "grids")

# What a point may not differ in, and where it is said instead.
ELSEWHERE = {
    "datasets": "a grid's data sets are under its own `datasets`",
    "test_sets": "a grid's data sets are under its own `datasets`",
    "fewshot.seeds": "a grid's seeds are under its own `seeds`",
    "protocols.transfer": "a grid measures data sets on themselves",
    "data": "pictures are fetched for the project, not for a point",
    "sources": "pictures are fetched for the project, not for a point",
    "grids": "a grid varies what is outside it",
    "run": "it decides where a grid is measured, not what",
    "retrain": "a grid registers nothing",
    "champion": "a grid registers nothing",
}


@dataclass(frozen=True)
class Point:
    """One setting of everything, to be measured on each data set."""

    label: str
    overrides: Overrides
    params: Params
    part: str = "test"  # what it is measured on

    @property
    def folder(self) -> str:
        """The label as a name that every file system takes."""
        return re.sub(r"[^A-Za-z0-9._=+-]+", "_", self.label).strip("_.")

    @cached_property
    def trainings(self) -> list[Training]:
        return protocols.measured(self.params)

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """All of params.yaml that decides the point's results."""
        return self.params.resolved() | {
            "device": self.params.device,
            "part": self.part,
            "trainings": [asdict(training) for training in self.trainings],
        }


@dataclass(frozen=True)
class Refused:
    """A point that cannot be, and why, as a sentence."""

    label: str
    overrides: Overrides
    why: str


@dataclass(frozen=True)
class Plan:
    """A grid's points, each to be measured with all ``seeds`` on all ``datasets``."""

    name: str
    about: str
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    refused: tuple[Refused, ...]


def plan(name: str, params: Params) -> Plan:
    """The points of one of params.yaml's grids. Points of the same settings are one, the first of them.

    Raises MmlopError, which names the grid, for an unknown grid, data set or key; a point that params.yaml itself could not
    be is ``refused``.
    """
    if name not in params.grids:
        raise MmlopError(f"There is no grid '{name}'. `grids` in params.yaml has {listing(params.grids, name) or 'none'}.")
    grid = params.grids[name]
    _require_keys(name, grid)
    wanted = grid.datasets or params.datasets
    _require_datasets(f"grids.{name}.datasets" if grid.datasets else "datasets", wanted, params)
    seeds = grid.seeds or params.fewshot.seeds
    start = {key: value for key, value in params.model_dump(mode="json").items() if key not in PIPELINES}
    points: dict[str, Point] = {}
    refused = []
    for label, overrides in _labelled(grid):
        try:
            point = Point(label or "as configured", overrides, overridden(start, seeds, grid.set | overrides), grid.part)
            _require_measured(point)
        except MmlopError as error:
            refused.append(Refused(label, overrides, str(error)))
        else:
            points.setdefault(json.dumps(point.decisive, sort_keys=True), point)
    return Plan(name, grid.about, wanted, seeds, tuple(points.values()), tuple(refused))


def overridden(start: Mapping[str, Any], seeds: tuple[int, ...], overrides: Overrides) -> Params:
    """The values of a params.yaml with other seeds and values of dotted keys. Raises MmlopError where they do not go
    together."""
    values = deepcopy(dict(start))
    for key, value in (overrides | {"fewshot.seeds": list(seeds)}).items():
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        section[last] = deepcopy(value)
    return config.parse(values, "this point")


def _require_measured(point: Point) -> None:
    if not point.trainings:
        raise MmlopError(
            "this point measures nothing: let protocols.base_to_novel be true, or give protocols.few_shot.shots."
        )


def _require_datasets(where: str, wanted: tuple[str, ...], params: Params) -> None:
    known = datasets.names(params)
    for name in wanted:
        if name not in known:
            raise MmlopError(f"{where} has '{name}', but there is no such data set. Known: {listing(known, name)}.")
        datasets.get(name, params)


def _labelled(grid: Grid) -> Iterator[tuple[str, Overrides]]:
    """Every point of every alternative, each under a label of its own: the values that vary in the alternative, and its
    method if that is another one than MMLoP; if that label is taken, all of its values."""
    taken: set[str] = set()
    for alternative in grid.vary:
        many = [key for key, values in alternative.items() if len(values) > 1]
        if many and alternative.get("method", (METHOD,)) != (METHOD,):
            many.append("method")
        shown = [key for key in alternative if key in many or not many]
        for chosen in product(*alternative.values()):
            overrides = dict(zip(alternative, chosen, strict=True))
            label = _label({key: overrides[key] for key in shown})
            if label in taken:
                label = _label(overrides)
            taken.add(label)
            yield label, overrides


def _label(overrides: Overrides) -> str:
    """ "rank=2", "shots=4, coop": keys by their last part where that will do, and a method by its name alone.

    >>> _label({"fewshot.shots": 4, "method": "coop"})
    'shots=4, coop'
    """
    lasts = [key.rpartition(".")[2] for key in overrides]
    names = {key: last if lasts.count(last) == 1 else key for key, last in zip(overrides, lasts, strict=True)}
    return ", ".join(
        _shown(value) if key == "method" else f"{names[key]}={_shown(value)}" for key, value in overrides.items()
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _require_keys(name: str, grid: Grid) -> None:
    """Raise MmlopError, naming the nearest, for keys that params.yaml does not have or a point has no say in."""
    for where, keys in (("set", grid.set), *(("vary", alternative) for alternative in grid.vary)):
        for key in keys:
            for given, instead in ELSEWHERE.items():
                if f"{key}.".startswith(f"{given}."):
                    raise MmlopError(f"grids.{name}.{where} has '{key}', which no point can differ in: {instead}.")
            _require_key(key, f"grids.{name}.{where}")


def _require_key(key: str, where: str) -> None:
    known: Any = Params
    parents: list[str] = []
    for part in key.split("."):
        model = _model(known)
        if model is not None:
            if part not in model.model_fields:
                inside = f" in {'.'.join(parents)}" if parents else ""
                raise MmlopError(
                    f"{where} has '{key}', but params.yaml has no key '{part}'{inside}; known keys: "
                    f"{listing(model.model_fields, part)}."
                )
            known = model.model_fields[part].annotation
        elif (values := _mapped(known)) is not None:  # `part` is a name of the user's choice
            known = values
        else:
            raise MmlopError(f"{where} has '{key}', but {'.'.join(parents)} in params.yaml has no keys of its own.")
        parents.append(part)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation, perhaps of something optional, stands for."""
    if _mapped(annotation) is not None:
        return None
    choices = (annotation, *get_args(annotation))
    return next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _mapped(annotation: Any) -> Any:
    """What the values of a mapping are, if an annotation stands for one."""
    return get_args(annotation)[1] if get_origin(annotation) in (dict, Mapping) else None
