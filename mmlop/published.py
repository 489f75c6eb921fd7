"""Published results to show beside ours, from published.yaml.

Methods and data sets have the project's names (zero_shot, coop, ...; imagenet, caltech101, ...). Accuracies are percent, of
CLIP ViT-B/16 with 16 shots. Everything carries the citation of where it was read; a ``note`` says what to beware of.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

SOURCE = Path(__file__).with_name("published.yaml")


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cited(Record):
    """Something with a citation that a reader can follow."""

    citation: str
    note: str | None = None


class Halves(Record):
    """Accuracy on base and novel classes and their harmonic mean, each as printed."""

    base: float
    novel: float
    hm: float


class Average(Cited):
    """Over the eleven data sets; ``hm`` is the harmonic mean of the averages. None: not published."""

    base: float | None
    novel: float | None
    hm: float


class PerDataset(Cited):
    datasets: dict[str, Halves]


class FewShot(Cited):
    """Accuracy on all classes, averaged over the eleven data sets."""

    zero_shot: float
    methods: dict[str, dict[int, float]]  # method -> shots -> accuracy


class Transfer(Cited):
    """Accuracy on ``targets`` after training on all classes of ImageNet; ``imagenet`` is the accuracy there."""

    imagenet: float | None
    average: float  # over the targets
    targets: dict[str, float]  # empty: the average alone is published


class Parameters(Cited):
    """Numbers that are trained: counted by ``formula``, and as ``printed`` in a paper or a README."""

    count: int
    formula: str
    printed: str | None


class Row(Record):
    name: str
    base: float | None = None
    novel: float | None = None
    hm: float | None = None


class Ablation(Cited):
    """Averages over the eleven data sets; ``secondhand``: not read in the paper."""

    title: str
    secondhand: bool
    rows: tuple[Row, ...]


class Published(Record):
    cautions: tuple[str, ...]  # what holds for every comparison with these numbers
    averages: dict[str, Average]  # by method, as are the others
    per_dataset: dict[str, PerDataset]
    few_shot: FewShot
    transfer: dict[str, Transfer]  # to ten other data sets
    variants: dict[str, Transfer]  # to four variants of ImageNet
    parameters: dict[str, Parameters]
    ablations: dict[str, Ablation]

    def base_to_novel(self, method: str) -> dict[str, Halves]:
        """Results of ``method`` by data set; empty where none are published. `per_dataset` has their citation."""
        return self.per_dataset[method].datasets if method in self.per_dataset else {}


@cache
def load() -> Published:
    """All of it. The file comes with the package, so what is wrong with it is not a user's mistake."""
    raw = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    citations: dict[str, str] = raw.pop("citations")
    raw["per_dataset"] = raw.pop("base_to_novel")
    return Published.model_validate(_cited(raw, citations))


def _cited(node: Any, citations: dict[str, str]) -> Any:
    """``node`` with the citation itself wherever a ``source`` names one."""
    if isinstance(node, list):
        return [_cited(each, citations) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _cited(value, citations) for key, value in node.items() if key != "source"}
    return found | {"citation": citations[node["source"]]} if "source" in node else found
