"""A project with results, and pages made of them read back; for tests of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import make_grid

from mmlop import config, page
from mmlop.files import write_json

VOID = {"meta", "link", "br", "img", "input"}
DATASETS = ("mini_sketch", "mini_digits")


def make_project(root: Path, datasets: Iterable[str] = DATASETS) -> Path:
    """params.yaml and the results of the pipeline."""
    root.mkdir(parents=True, exist_ok=True)
    names = list(datasets)
    profile = {"architecture": "mini"}
    values = {"datasets": names, "backbone": "mini", "profiles": {"mini": profile}}
    (root / "params.yaml").write_text(json.dumps(values))
    for place, name in enumerate(names):
        (root / "results").mkdir(exist_ok=True)
        lines = [json.dumps(record) for record in records(name, 60.0 + place)]
        (root / "results" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def records(dataset: str, around: float) -> list[dict[str, Any]]:
    about = {"dataset": dataset, "source": dataset, "split": "rendered", "protocol": "base_to_novel"}
    found = []
    for method, seeds, better in (("zero_shot", [None], 0.0), ("mmlop", [1, 2, 3], 10.0)):
        for seed in seeds:
            base, novel = around + better + (seed or 0), around + better / 2 - (seed or 0)
            values = {"base": base, "novel": novel, "hm": round(2 * base * novel / (base + novel), 4)}
            own = {"method": method, "seed": seed, "shots": 16 if seed else 0}
            found += [about | own | {"metric": metric, "value": value} for metric, value in values.items()]
    return found


def make_run(root: Path, dataset: str, classes: Iterable[str]) -> None:
    """runs/<dataset>/run.json, as far as a report reads it."""
    names = list(classes)
    half = (len(names) + 1) // 2
    groups = {"base": (80.0, names[:half]), "novel": (60.0, names[half:])}
    history = [{"loss": 2.0 / (epoch + 1)} for epoch in range(8)]
    seeds = {str(seed): [make_grid.outcome(f"{dataset} {seed}", groups, 16) | {"history": history}] for seed in (1, 2, 3)}
    mode = {"device": "cpu", "machine": "Linux x86_64", "threads": 1, "libraries": {"torch": "2.14"}}
    run = {"method": "mmlop", "classes": names, "seeds": seeds, "mode": mode, "backbone": {"name": "mini", "weights": None}}
    write_json(root / "runs" / dataset / "run.json", run | {"data": {"split": "rendered", "licence": "none"}})


def written(root: Path) -> str:
    """The page of a project."""
    page.write(root, config.load(root / "params.yaml"))
    return (root / page.FILE).read_text(encoding="utf-8")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    inside: list[Element] = field(default_factory=list)
    text: str = ""  # its own and that of all in it

    def all(self, tag: str, **wanted: str) -> list[Element]:
        """Everything of that kind in it, with these attributes."""
        found = []
        for one in self.inside:
            if one.tag == tag and wanted.items() <= {k.replace("-", "_"): v for k, v in one.attributes.items()}.items():
                found.append(one)
            found += one.all(tag, **wanted)
        return found

    def cells(self) -> list[list[str]]:
        """Of a table, without its groups' names."""
        rows = [[cell.text for cell in row.inside] for row in self.all("tr")]
        return [row for row in rows if len(row) == len(rows[-1])]


class _Reader(HTMLParser):
    """Fails for a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attributes))
        assert len(element.attributes) == len(attributes), f"an attribute twice in {self.get_starttag_text()}"
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open[-1].inside.append(Element(tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> at {self.getpos()} closes another element"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def parsed(text: str) -> Element:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root
