"""What a training leaves on disk, in deterministic bytes: what reports, metrics files and tracking are made from.

runs/<dataset>/adapter/        the deliverable
runs/<dataset>/run.json        all that tracking and registry need, so that both can be filled again from disk
results/<dataset>.jsonl        a record per measured number
results/<dataset>.json, .csv   the same as DVC's metrics and plots
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mmlop import adapter as adapters
from mmlop.experiment import Bench, Metrics, Trained, best, summarise
from mmlop.files import replacing, write_json, write_text
from mmlop.training import Epoch, mode

Run = dict[str, Any]


@dataclass(frozen=True)
class SeedResult:
    """One seed: the base-to-novel metrics with their training's history, and the adapter on all classes."""

    base_to_novel: Metrics
    history: list[Epoch]
    all_classes: Trained


def write(root: Path, bench: Bench, seeds: dict[int, SeedResult]) -> Run:
    """Choose the deliverable and write every file of the data set; returns what run.json holds."""
    chosen = best({seed: result.all_classes for seed, result in seeds.items()})
    deliverable = seeds[chosen].all_classes
    run = _describe(bench, seeds)
    with replacing(root / "runs" / bench.name) as folder:
        folder.mkdir()
        deliverable.adapter.save(folder / "adapter")
        run["deliverable"] = {
            "seed": chosen,
            "identity": adapters.identity(folder / "adapter"),
            "metrics": deliverable.adapter.info.metrics,
            "confusion": bench.confusion(deliverable.adapter),
            "trained_on": sorted(deliverable.trained_on),
        }
        write_json(folder / "run.json", run)
    results = root / "results"
    lines = [json.dumps(record, sort_keys=True) for record in records(run)]
    write_text(results / f"{bench.name}.jsonl", "\n".join(lines) + "\n")
    names = ("base", "novel", "hm", "accuracy")
    spread = tuple(f"{name}_std" for name in names)
    write_json(
        results / f"{bench.name}.json",
        {
            "zero_shot": {name: run["zero_shot"][name] for name in names if name in run["zero_shot"]},
            run["method"]: {name: run["summary"][name] for name in names + spread if name in run["summary"]},
        },
    )
    write_text(results / f"{bench.name}.csv", _curve([result.history for result in seeds.values()]))
    return run


def records(run: Run) -> Iterator[dict[str, Any]]:
    """One record per (dataset, protocol, method, shots, seed, metric) with its value in percent."""

    def record(protocol: str, method: str, shots: int, seed: int | None, metric: str, value: float) -> dict[str, Any]:
        about = {"dataset": run["dataset"], "protocol": protocol, "method": method, "shots": shots, "seed": seed}
        return about | {"metric": metric, "value": value}

    for metric, value in sorted(run["zero_shot"].items()):
        protocol = "all_classes" if metric in ("accuracy", "ece") else "base_to_novel"
        yield record(protocol, "zero_shot", 0, None, metric, value)
    shots = run["params"]["fewshot"]["shots"]
    for seed, protocols in run["seeds"].items():
        for protocol, trained in sorted(protocols.items()):
            for metric, value in sorted(trained["metrics"].items()):
                yield record(protocol, run["method"], shots, int(seed), metric, value)


def table(run: Run) -> list[dict[str, Any]]:
    """Rows for people: the zero-shot baseline, every seed, and their mean."""
    rows = [{"run": "zero-shot"} | run["zero_shot"]]
    for seed, protocols in run["seeds"].items():
        metrics = protocols["base_to_novel"]["metrics"] | protocols["all_classes"]["metrics"]
        rows.append({"run": f"{run['method']} seed {seed}"} | metrics)
    rows.append({"run": f"{run['method']} mean"} | run["summary"])
    names = ("base", "novel", "hm", "accuracy", "validation", "ece")
    return [{"run": row["run"]} | {name: f"{row[name]:.2f}" if name in row else "" for name in names} for row in rows]


def sentence(run: Run) -> str:
    """The result of a data set in one line."""
    zero, ours = run["zero_shot"], run["summary"]
    return ", ".join(f"{name} {zero[name]:.1f} -> {ours[name]:.1f}" for name in ("base", "novel", "hm") if name in ours)


def _describe(bench: Bench, seeds: dict[int, SeedResult]) -> Run:
    manifest, first = bench.manifest, next(iter(seeds.values())).all_classes.adapter
    per_seed = [result.base_to_novel | result.all_classes.adapter.info.metrics for result in seeds.values()]
    return {
        "format": 1,
        "dataset": bench.name,
        "method": first.info.method,
        "protocol": "base_to_novel",
        "params": bench.params.resolved(),
        "data_hash": manifest.hash,
        "split_hash": bench.split.hash,
        "data": {
            "source": manifest.source,
            "licence": manifest.licence,
            "classes": len(manifest.classes),
            "pictures": len(manifest.pictures),
        },
        "backbone": first.info.backbone.model_dump(mode="json"),
        "mode": mode(bench.backbone),
        "trainable": bench.shape.trainable,
        "classes": list(manifest.classes),
        "zero_shot": bench.zero_shot(),
        "seeds": {
            str(seed): {
                "base_to_novel": {"metrics": result.base_to_novel, "history": result.history},
                "all_classes": {
                    "metrics": result.all_classes.adapter.info.metrics,
                    "history": result.all_classes.history,
                },
            }
            for seed, result in seeds.items()
        },
        "summary": summarise(per_seed),
    }


def _curve(histories: list[list[Epoch]]) -> str:
    """CSV of each epoch's values, averaged over seeds."""
    names = sorted(histories[0][0])
    lines = [",".join(["epoch", *names])]
    for number, epochs in enumerate(zip(*histories, strict=True), start=1):
        lines.append(",".join([str(number), *(f"{mean(epoch[name] for epoch in epochs):.6g}" for name in names)]))
    return "\n".join(lines) + "\n"
