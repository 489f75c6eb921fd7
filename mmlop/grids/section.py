"""A grid of measurements as params.yaml describes it: what is varied, and over which data sets and seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mmlop.settings import Count, Section


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("a list is needed, even of a single one")
    return value


Values = Annotated[tuple[Any, ...], BeforeValidator(_list), Field(min_length=1)]
Alternatives = Annotated[tuple[dict[str, Values], ...], BeforeValidator(_list), Field(min_length=1)]


class Grid(Section):
    """Its points are the products of the lists in each alternative of ``vary``, on top of ``set`` and of what params.yaml
    says of the backbone (mmlop/grids/points.py)."""

    about: str = ""  # one line
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: as under `datasets`
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None  # None: as under `fewshot.seeds`
    part: Literal["test", "val"] = "test"  # what is measured on; hyper-parameters are chosen on val
    set: dict[str, Any] = Field(default_factory=dict)  # dotted key of params.yaml -> value, the same for every point
    vary: Alternatives = ({},)  # dotted key -> values, per alternative

    @model_validator(mode="after")
    def _once(self) -> Grid:
        for name, listed in (("datasets", self.datasets), ("seeds", self.seeds)):
            if listed and len(set(listed)) < len(listed):
                raise ValueError(f"{name} lists a value twice: {', '.join(map(str, listed))}")
        for alternative in self.vary:
            if both := [key for key in alternative if key in self.set]:
                raise ValueError(f"{both[0]} is under `set` and under `vary`: one of them is enough")
        return self
