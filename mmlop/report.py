"""The results of all data sets, and their summary: what the report (mmlop/page) is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.evaluation import harmonic_mean
from mmlop.files import write_json, write_text
from mmlop.protocols import CROSS_DATASET, DOMAIN_GENERALISATION, FEW_SHOT, IN_DOMAIN

Record = dict[str, Any]
Summary = dict[str, Any]
OWN = ("base", "novel", "hm", "accuracy", "accuracy_estimate")  # metrics of a data set's own adapters
TRANSFERS = (IN_DOMAIN, CROSS_DATASET, DOMAIN_GENERALISATION)


def files(root: Path, params: Params) -> list[Path]:
    """The result files of everything that is configured."""
    folder, transfer = root / "results", params.protocols.transfer
    own = [folder / f"{dataset}.jsonl" for dataset in params.datasets]
    pairs = [(source, target) for source in transfer.sources for target in transfer.targets]
    return own + [folder / "transfer" / source / f"{target}.jsonl" for source, target in pairs]


def collect(root: Path, params: Params) -> list[Record]:
    """The results of everything that is configured. Raises MmlopError for a file that is missing or damaged."""
    return [record for file in files(root, params) for record in read(file)]


def write(root: Path, records: Sequence[Record], summary: Summary) -> None:
    lines = [json.dumps(record, sort_keys=True) for record in records]
    write_text(root / "reports" / "results.jsonl", "\n".join(lines) + "\n")
    write_json(root / "reports" / "summary.json", summary)


def read(file: Path) -> list[Record]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise MmlopError(f"There are no results at {file}: run `dvc repro` (or `mmlop train {file.stem}`) first.") from None
    except ValueError as error:
        raise MmlopError(f"{file} is damaged ({error}): run `dvc repro` again.") from error


def summarise(records: Sequence[Record]) -> Summary:
    """Means over seeds, each with ``<metric>_std`` beside it:

    - ``datasets``: ``{name: {method: {metric: ...}}}`` of adapters on their own data set, and their ``mean``. The mean's
      `hm` is the harmonic mean of the mean base and novel accuracy, as papers print it; its spread is that of the means of
      single seeds.
    - ``few_shot``: ``{name: {method: {shots: {"accuracy": ...}}}}``, where measured
    - ``transfer``: ``{source: {protocol: {target: {method: {"accuracy": ...}}}}}``, where measured, with the ``mean`` of
      the targets of each protocol among them
    - ``own_split``: the data sets whose numbers do not compare with those of papers
    """
    own = [r for r in records if r.get("protocol") not in (FEW_SHOT, *TRANSFERS) and r["metric"] in OWN]
    values = _grouped(own, "dataset", "method", "metric")
    summary = {
        "datasets": {name: {m: _over_seeds(found) for m, found in methods.items()} for name, methods in values.items()},
        "mean": _mean_of_halves(values),
    }
    if few := [r for r in records if r.get("protocol") == FEW_SHOT and r["metric"] == "accuracy"]:
        summary["few_shot"] = {
            name: {m: {str(k): _over_seeds(v) for k, v in shots.items()} for m, shots in methods.items()}
            for name, methods in _grouped(few, "dataset", "method", "shots", "metric").items()
        }
    if moved := [r for r in records if r.get("protocol") in TRANSFERS and r["metric"] == "accuracy"]:
        summary["transfer"] = {
            source: {protocol: _over_targets(targets) for protocol, targets in protocols.items()}
            for source, protocols in _grouped(moved, "source", "protocol", "dataset", "method", "metric").items()
        }
    if marked := sorted({r["dataset"] for r in records if r.get("split") == "own"}):
        summary["own_split"] = marked
    return summary


def _grouped(records: Sequence[Record], *keys: str) -> dict[str, Any]:
    """Values by seed, nested under the values of ``keys`` in order of appearance."""
    tree: dict[str, Any] = {}
    for record in records:
        level = tree
        for key in keys:
            level = level.setdefault(record[key], {})
        level[record["seed"]] = record["value"]
    return tree


def _mean_of_halves(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Over the data sets with base and novel classes, of the methods that all of those have."""
    halved = [methods for methods in values.values() if any("base" in found for found in methods.values())]
    methods = list(dict.fromkeys(method for found in halved for method in found))
    everywhere = [m for m in methods if all("base" in found.get(m, {}) for found in halved)]
    return {m: _over_datasets([found[m] for found in halved]) for m in everywhere}


def _over_targets(targets: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Each target's means over seeds; where there are several targets, also the mean over them, seed by seed."""
    found = {name: {m: _over_seeds(metrics) for m, metrics in methods.items()} for name, methods in targets.items()}
    if len(targets) > 1:
        methods = next(iter(targets.values()))
        found["mean"] = {m: _over_datasets([methods[m] for methods in targets.values()]) for m in methods}
    return found


def _over_seeds(metrics: dict[str, dict[Any, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, by_seed in metrics.items():
        found[name] = round(mean(by_seed.values()), 4)
        if None not in by_seed:  # a method without seeds has no spread
            found[f"{name}_std"] = _spread(list(by_seed.values()))
    return found


def _over_datasets(found: list[dict[str, dict[Any, float]]]) -> dict[str, float]:
    first = "base" if "base" in found[0] else "accuracy"
    seeds = list(found[0][first])
    if any(set(one[first]) != set(seeds) for one in found):
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
