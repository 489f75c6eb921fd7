"""What the pipeline trained: results beside the frozen CLIP, and a closer look at each data set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from mmlop import tables
from mmlop.errors import MmlopError
from mmlop.grids.comparison import interval
from mmlop.methods import METHODS
from mmlop.page import charts
from mmlop.page.geometry import Chart, Point, Series
from mmlop.page.section import Section
from mmlop.protocols import ALL_CLASSES, BASE_TO_NOVEL, FEW_SHOT
from mmlop.report import Record, Summary
from mmlop.tables import Table

HALVES = ("base", "novel")
CONFUSED, TAKEN = 8, 3  # pairs of classes that are listed, and names beside each class
RESULTS, CLOSER = "Results", "Data set by data set"

OF = {"hm": BASE_TO_NOVEL, "accuracy": ALL_CLASSES}

Counts = np.ndarray[Any, Any]  # [C, C] of (label, prediction)
Run = dict[str, Any]  # runs/<dataset>/run.json


def runs(root: Path, datasets: Sequence[str]) -> dict[str, Run]:
    """run.json of every data set that has one here. Raises MmlopError for one that is no JSON."""
    files = {dataset: root / "runs" / dataset / "run.json" for dataset in datasets}
    return {dataset: _read(file) for dataset, file in files.items() if file.is_file()}


def _read(file: Path) -> Run:
    try:
        run: Run = json.loads(file.read_bytes())
        if missing := {"classes", "seeds"} - run.keys():
            raise ValueError(f"it lacks {' and '.join(sorted(missing))}")
    except (ValueError, AttributeError) as error:
        raise MmlopError(f"{file} is damaged ({error}): train again (`dvc repro -f`).") from None
    return run


def results(summary: Summary, records: Sequence[Record]) -> Section:
    """The tables of `mmlop report`, and the same as charts."""
    found = list(tables.of(summary))
    series = _series(records)
    drawn = [*_headlines(records, series), *_curves(records, series)]
    return Section(RESULTS, charts=tuple(drawn), tables=tuple(found), small=tuple(tables.footnotes(found)))


def _series(records: Sequence[Record]) -> dict[str, Series]:
    trained = [m for m in dict.fromkeys(r["method"] for r in records) if m != "zero_shot"]
    order = sorted(trained, key=lambda method: method != "mmlop")
    numbers = {"zero_shot": -1} | {method: place for place, method in enumerate(order)}
    return {method: Series(METHODS[method].title if method in METHODS else method, n) for method, n in numbers.items()}


def _headlines(records: Sequence[Record], series: Mapping[str, Series]) -> Iterator[Chart]:
    """Every data set's harmonic mean (its accuracy where it has no halves), with an interval over seeds."""
    for metric, title in (("hm", "Harmonic mean of base and novel, %"), ("accuracy", "Accuracy among all classes, %")):
        found = _values([r for r in records if r["metric"] == metric and r.get("protocol") in (None, OF[metric])])
        if found:
            listed = [(dataset, [_point(series[m], v) for m, v in methods.items()]) for dataset, methods in found.items()]
            yield charts.rows(title, "%", listed)


def _curves(records: Sequence[Record], series: Mapping[str, Series]) -> Iterator[Chart]:
    few = [r for r in records if r.get("protocol") == FEW_SHOT and r["metric"] == "accuracy"]
    for dataset in dict.fromkeys(r["dataset"] for r in few):
        lines = []
        for method in dict.fromkeys(r["method"] for r in few if r["dataset"] == dataset):
            own = [r for r in few if (r["dataset"], r["method"]) == (dataset, method)]
            shots = sorted({r["shots"] for r in own})
            lines.append([_point(series[method], [r["value"] for r in own if r["shots"] == k], k) for k in shots])
        yield charts.curves(f"{dataset}: accuracy by shots, all classes, %", "shots", "%", lines, log=True)


def _values(records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
    tree: dict[str, dict[str, list[float]]] = {}
    for record in records:
        tree.setdefault(record["dataset"], {}).setdefault(record["method"], []).append(record["value"])
    return tree


def _point(series: Series, values: Sequence[float], x: float = 0.0) -> Point:
    found = interval(values)
    return Point.percent(series, found.mean, found.low, found.high, x)


def closer(datasets: Sequence[str], found: Mapping[str, Run]) -> Section | None:
    """Calibration, confusions and training of each data set; None where nothing is known of any."""
    order = [*datasets, *(dataset for dataset in found if dataset not in datasets)]
    panels = tuple(filter(None, (_panel(dataset, found[dataset]) for dataset in order if dataset in found)))
    if not panels:
        return None
    notes = (
        "Of the test pictures, over all seeds. Calibration is accuracy against confidence: where a bar ends below the "
        "dashed line, the adapter is surer than it is right, and the expected calibration error (ECE) is the mean distance "
        "from that line. In a confusion matrix a row is a class, and its cells what its pictures were taken for; right is "
        "on the diagonal.",
    )
    return Section(CLOSER, notes, panels=panels, choice="Data set", twin=False)


def _panel(dataset: str, run: Run) -> Section | None:
    method = str(run.get("method", "mmlop"))
    series = Series(METHODS[method].title if method in METHODS else method, 0)
    outcomes = [one for trained in run["seeds"].values() for one in trained if one["protocol"] == BASE_TO_NOVEL]
    calibration: list[Chart] = []
    confusions: list[Chart] = []
    pairs: list[Table] = []
    each: list[Table] = []
    classes, start = list(run["classes"]), 0
    for half in HALVES:
        shown = [one["shown"][half] for one in outcomes if half in one.get("shown", {})]
        if not shown:
            continue
        counts = np.sum([one["confusion"] for one in shown], axis=0)
        names, start = classes[start : start + len(counts)], start + len(counts)
        errors = [one["metrics"][f"ece_{half}"] for one in outcomes if f"ece_{half}" in one["metrics"]]
        title = f"Calibration, {half} classes" + (f" (ECE {mean(errors):.1f}\u00a0%)" if errors else "")
        calibration.append(charts.reliability(title, pooled([one["reliability"] for one in shown]), series))
        confusions.append(charts.confusion(f"Confusion of {half} classes", counts.tolist(), names, series))
        pairs += _confused(half, counts, names)
        each.append(_each(half, counts, names))
    if not confusions and (counts := np.asarray(run.get("deliverable", {}).get("confusion", []))).size:
        confusions.append(charts.confusion("Confusion of all classes, delivered adapter", counts.tolist(), classes, series))
        pairs += _confused("all", counts, classes)
        each.append(_each("all", counts, classes))
    drawn = (*calibration, *confusions, *_training(run))
    return Section(dataset, charts=drawn, tables=(*pairs, *each)) if drawn else None


def pooled(found: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Bins (pictures, mean confidence, accuracy) of several seeds as if of one."""
    values = np.asarray(found, dtype=np.float64)  # [S, bins, 3]
    counts = values[..., :1].sum(axis=0)
    means = (values[..., :1] * values[..., 1:]).sum(axis=0) / np.maximum(counts, 1)
    bins: list[list[float]] = np.hstack([counts, means]).round(4).tolist()
    return bins


def _confused(half: str, counts: Counts, names: Sequence[str]) -> Iterator[Table]:
    """The pairs of classes that are confused most often."""
    total = counts.sum(axis=1)
    rows = tuple((names[a], names[b], f"{counts[a, b]} of {total[a]}") for a, b in _errors(counts)[:CONFUSED])
    if rows:
        yield Table(f"Most often confused, {half} classes", (("", "taken for"), ("", "pictures")), rows, "class")


def _each(half: str, counts: Counts, names: Sequence[str]) -> Table:
    """Every class, and what its pictures are taken for."""
    taken: dict[int, list[str]] = {}
    for label, prediction in _errors(counts):
        taken.setdefault(label, []).append(f"{names[prediction]} ({counts[label, prediction]})")
    total = counts.sum(axis=1)
    rows = tuple(
        (name, f"{100 * counts[c, c] / total[c]:.1f}" if total[c] else "", ", ".join(taken.get(c, [])[:TAKEN]))
        for c, name in enumerate(names)
    )
    return Table(f"Each of the {half} classes", (("", "accuracy, %"), ("", "taken most often for")), rows, "class")


def _errors(counts: Counts) -> list[tuple[int, int]]:
    """Label and prediction of every confusion that happened, the most frequent first."""
    wrong = np.argwhere(counts - np.diag(np.diag(counts))).tolist()
    return sorted(((a, b) for a, b in wrong), key=lambda pair: (-counts[pair], pair))


def _training(run: Run) -> Iterator[Chart]:
    """The loss of every epoch, by seed."""
    lines = []
    for place, (seed, trained) in enumerate(run["seeds"].items()):
        losses = [epoch["loss"] for epoch in trained[0].get("history", []) if "loss" in epoch]
        lines.append([Point(Series(f"seed {seed}", place), loss, x=n) for n, loss in enumerate(losses, start=1)])
    if lines and all(len(line) > 1 for line in lines):
        yield charts.curves(f"Training loss, {trained[0]['protocol'].replace('_', ' ')}", "epoch", "loss", lines)
