"""The tables of a report, from its summary: for people, on the terminal, in summary.md and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mmlop.protocols import CROSS_DATASET, DOMAIN_GENERALISATION, IN_DOMAIN

Summary = dict[str, Any]
BASE_TO_NOVEL = ("base", "novel", "hm")
CAPTION = "Test accuracy in percent; mean and standard deviation over seeds."
OWN_SPLIT = "* on a split of one's own: these numbers do not compare with those of papers."
ESTIMATE = "≈ estimated by k-fold, since there are too few pictures for a test part."
TRANSFER_TITLES = {
    IN_DOMAIN: "{source}, on itself",
    CROSS_DATASET: "From {source} to other data sets",
    DOMAIN_GENERALISATION: "From {source} to its variants",
}


@dataclass(frozen=True)
class Table:
    title: str  # empty for the main one
    columns: tuple[tuple[str, str], ...]  # group (or none) and name, after a first column
    rows: tuple[tuple[str, ...], ...]
    first: str = "data set"  # the first column's name

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of neighbouring columns, and how many each spans; empty if none has a name."""
        found = [(name, len(list(columns))) for name, columns in groupby(group for group, _ in self.columns)]
        return found if any(name for name, _ in found) else []


def of(summary: Summary) -> Iterator[Table]:
    """The main table first: base, novel and harmonic mean of the data sets that have halves."""
    datasets, own_split = summary["datasets"], summary.get("own_split", [])
    halved = {name: found for name, found in datasets.items() if any("base" in metrics for metrics in found.values())}
    if halved and summary["mean"]:
        yield _halves(halved, summary["mean"], own_split)
    if whole := {name: found for name, found in datasets.items() if name not in halved}:
        methods = list(dict.fromkeys(method for found in whole.values() for method in found))
        rows = tuple((_marked(n, own_split), *(_accuracy(found.get(m, {})) for m in methods)) for n, found in whole.items())
        yield Table("All classes", tuple((_spelt(m), "accuracy") for m in methods), rows)
    if few := summary.get("few_shot"):
        yield _curve(few, datasets, own_split)
    for source, protocols in summary.get("transfer", {}).items():
        for protocol, targets in protocols.items():
            methods = list(next(iter(targets.values())))
            rows = tuple(
                (_marked(name, own_split), *(_cell(found[m], "accuracy") for m in methods))
                for name, found in targets.items()
            )
            yield Table(
                TRANSFER_TITLES[protocol].format(source=source), tuple((_spelt(m), "accuracy") for m in methods), rows
            )


def footnotes(tables: list[Table]) -> list[str]:
    """What the signs in the tables mean."""
    cells = [cell for table in tables for row in table.rows for cell in row]
    notes = [CAPTION]
    if any(cell.endswith("*") and not cell.endswith("**") for cell in cells):
        notes.append(OWN_SPLIT)
    if any(cell.startswith("≈") for cell in cells):
        notes.append(ESTIMATE)
    return notes


def to_markdown(summary: Summary) -> str:
    tables = list(of(summary))
    return "\n\n".join([*map(markdown, tables), *footnotes(tables)]) + "\n"


def markdown(table: Table) -> str:
    header = [table.first, *(" ".join(column).strip() for column in table.columns)]
    rows = [[f"**{row[0]}**" if row[0] == "mean" else row[0], *row[1:]] for row in table.rows]
    lines = [header, ["---"] + ["---:"] * len(table.columns), *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{table.title}**\n\n{text}" if table.title else text


def _halves(datasets: Summary, mean: Summary, own_split: list[str]) -> Table:
    methods = list(mean)
    ours = [method for method in methods if method != "zero_shot"]

    def row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
        cells = [_cell(found[method], metric) for method in methods for metric in BASE_TO_NOVEL]
        gains = [f"{found[m]['hm'] - found['zero_shot']['hm']:+.1f}" if "hm" in found[m] else "" for m in ours]
        return (name, *cells, *gains)

    columns = [(_spelt(m), name) for m in methods for name in ("base", "novel", "HM")]
    rows = [row(_marked(name, own_split), found) for name, found in datasets.items()]
    return Table("", (*columns, *((m, "gain in HM") for m in ours)), (*rows, row("mean", mean)))


def _curve(few: Summary, datasets: Summary, own_split: list[str]) -> Table:
    """Accuracy against shots; 0 shots is zero-shot."""
    methods = list(dict.fromkeys(method for found in few.values() for method in found))
    shots = sorted({k for found in few.values() for curve in found.values() for k in curve}, key=int)
    rows = []
    for name, found in few.items():
        cells = [_cell(found.get(m, {}).get(k, {}), "accuracy") for m in methods for k in shots]
        rows.append((_marked(name, own_split), _cell(datasets.get(name, {}).get("zero_shot", {}), "accuracy"), *cells))
    columns = [
        ("zero-shot", "0 shots"),
        *((_spelt(m), f"{k} shot{'s' if k != '1' else ''}") for m in methods for k in shots),
    ]
    return Table("All classes, by shots", tuple(columns), tuple(rows))


def _spelt(method: str) -> str:
    return method.replace("_", "-")


def _marked(name: str, own_split: list[str]) -> str:
    return f"{name} *" if name in own_split else name


def _accuracy(metrics: dict[str, float]) -> str:
    return f"≈ {_cell(metrics, 'accuracy_estimate')}" if "accuracy_estimate" in metrics else _cell(metrics, "accuracy")


def _cell(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    spread = f" ± {metrics[f'{name}_std']:.1f}" if f"{name}_std" in metrics else ""
    return f"{metrics[name]:.1f}{spread}"
