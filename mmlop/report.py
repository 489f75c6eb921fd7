"""The report over all data sets: results.jsonl, and two views of it, summary.json and summary.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmlop.errors import MmlopError
from mmlop.evaluation import harmonic_mean
from mmlop.files import write_json, write_text

Record = dict[str, Any]
BASE_TO_NOVEL = ("base", "novel", "hm")
CAPTION = "Test accuracy in percent; mean and standard deviation over seeds."


def write(root: Path, datasets: Sequence[str]) -> dict[str, Any]:
    """Write reports/ from results/ and return the summary. Raises MmlopError for a data set without results."""
    records = [record for dataset in datasets for record in read(root / "results" / f"{dataset}.jsonl")]
    summary = summarise(records)
    lines = [json.dumps(record, sort_keys=True) for record in records]
    write_text(root / "reports" / "results.jsonl", "\n".join(lines) + "\n")
    write_json(root / "reports" / "summary.json", summary)
    write_text(root / "reports" / "summary.md", to_markdown(summary))
    return summary


def read(file: Path) -> list[Record]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise MmlopError(f"There are no results at {file}: run `dvc repro` (or `mmlop train {file.stem}`) first.") from None
    except ValueError as error:
        raise MmlopError(f"{file} is damaged ({error}): run `dvc repro` again.") from error


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """``{"datasets": {name: {method: {metric: mean over seeds, metric_std: ...}}}, "mean": {method: {...}}}``.

    The mean's `hm` is the harmonic mean of the mean base and novel accuracy, as papers print it; its spread is that of the
    means of single seeds.
    """
    values: dict[str, dict[str, dict[str, dict[Any, float]]]] = {}  # data set, method, metric, seed
    for record in records:
        if record["metric"] in (*BASE_TO_NOVEL, "accuracy"):
            by_metric = values.setdefault(record["dataset"], {}).setdefault(record["method"], {})
            by_metric.setdefault(record["metric"], {})[record["seed"]] = record["value"]
    datasets = {
        name: {method: _over_seeds(metrics) for method, metrics in methods.items()} for name, methods in values.items()
    }
    methods = list(dict.fromkeys(record["method"] for record in records))
    everywhere = [m for m in methods if all(m in found and "base" in found[m] for found in values.values())]
    return {"datasets": datasets, "mean": {m: _over_datasets([found[m] for found in values.values()]) for m in everywhere}}


def table(summary: dict[str, Any]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The summary as (method, metric) per column after the first, and a row per data set and for their mean."""
    methods = list(summary["mean"])
    ours = [method for method in methods if method != "zero_shot"]
    header = [(m.replace("_", "-"), name) for m in methods for name in ("base", "novel", "HM")]
    rows = [_row(name, found, methods, ours) for name, found in summary["datasets"].items()]
    rows.append(_row("mean", summary["mean"], methods, ours))
    return [*header, *((m, "gain in HM") for m in ours)], rows


def to_markdown(summary: dict[str, Any]) -> str:
    """One row per data set: zero-shot and each method's base, novel and harmonic mean, in percent."""
    header, rows = table(summary)
    rows[-1][0] = f"**{rows[-1][0]}**"
    lines = [["data set", *map(" ".join, header)], ["---"] + ["---:"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{CAPTION}\n"


def _row(name: str, found: dict[str, Any], methods: list[str], ours: list[str]) -> list[str]:
    cells = [_cell(found[method], metric) for method in methods for metric in BASE_TO_NOVEL]
    gains = [f"{found[m]['hm'] - found['zero_shot']['hm']:+.1f}" if "hm" in found[m] else "" for m in ours]
    return [name, *cells, *gains]


def _cell(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    spread = f" ± {metrics[f'{name}_std']:.1f}" if f"{name}_std" in metrics else ""
    return f"{metrics[name]:.1f}{spread}"


def _over_seeds(metrics: dict[str, dict[Any, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, by_seed in metrics.items():
        found[name] = round(mean(by_seed.values()), 4)
        if None not in by_seed:  # a method without seeds has no spread
            found[f"{name}_std"] = _spread(list(by_seed.values()))
    return found


def _over_datasets(found: list[dict[str, dict[Any, float]]]) -> dict[str, float]:
    seeds = list(found[0]["base"])
    if any(set(one["base"]) != set(seeds) for one in found):
        raise MmlopError("The data sets have results of different seeds, which have no common mean: run `dvc repro` first.")
    means = {
        name: [mean(one[name][seed] for one in found) for seed in seeds]
        for name in ("base", "novel", "accuracy")
        if all(name in one for one in found)
    }
    if "novel" in means:
        means["hm"] = [harmonic_mean(base, novel) for base, novel in zip(means["base"], means["novel"], strict=True)]
    summary = {name: round(mean(values), 4) for name, values in means.items()}
    if "novel" in means:
        summary["hm"] = round(harmonic_mean(mean(means["base"]), mean(means["novel"])), 4)
    if None not in seeds:
        summary |= {f"{name}_std": _spread(values) for name, values in means.items()}
    return summary


def _spread(values: list[float]) -> float:
    return round(stdev(values), 4) if len(values) > 1 else 0.0
