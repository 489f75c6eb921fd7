"""A grid of measurements as params.yaml describes it: what is varied, and over which data sets and seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mmlop.settings import Count, Section

Values = Annotated[tuple[Any, ...], Field(min_length=1)]


class Grid(Section):
    """Its points are the products of the lists in each alternative of ``vary``, on top of ``set`` and of params.yaml."""

    about: str = ""  # one line
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: as under `datasets`
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None  # None: as under `fewshot.seeds`
    part: Literal["test", "val"] = "test"  # what is measured on; hyper-parameters are chosen on val
    set: dict[str, Any] = Field(default_factory=dict)  # dotted key of params.yaml -> value, the same for every point
    vary: Annotated[tuple[dict[str, Values], ...], Field(min_length=1)] = ({},)  # dotted key -> values, per alternative

    @model_validator(mode="after")
    def _once(self) -> Grid:
        for name, listed in (("datasets", self.datasets), ("seeds", self.seeds)):
            if listed and len(set(listed)) < len(listed):
                raise ValueError(f"{name} lists a value twice: {', '.join(map(str, listed))}")
        for alternative in self.vary:
            if both := [key for key in alternative if key in self.set]:
                raise ValueError(f"{both[0]} is under `set` and under `vary`: one of them is enough")
        return self
