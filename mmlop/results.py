"""What a training leaves on disk, in deterministic bytes: what reports, metrics files and tracking are made from.

runs/<dataset>/adapter/        the deliverable
runs/<dataset>/run.json        all that tracking and registry need, so that both can be filled again from disk
results/<dataset>.jsonl        a record per measured number
results/<dataset>.json, .csv   the same as DVC's metrics and plots
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from mmlop import adapter as adapters
from mmlop.adapter import Adapter, Reported
from mmlop.evaluation import Metrics, summarise
from mmlop.experiment import Bench, Trained, best
from mmlop.files import replacing, write_json, write_text
from mmlop.protocols import ALL_CLASSES, BASE_TO_NOVEL, FEW_SHOT
from mmlop.training import Epoch

Run = dict[str, Any]
Record = dict[str, Any]

HEADLINES = ("base", "novel", "hm", "accuracy")


def write(root: Path, bench: Bench, seeds: dict[int, list[Trained]]) -> Run:
    """Choose the deliverable and write every file of the data set; returns what run.json holds."""
    delivered = {seed: trained[-1] for seed, trained in seeds.items()}  # the last of `protocols.trainings`
    chosen = best(delivered)
    run = _describe(bench, seeds, delivered[chosen])
    with replacing(root / "runs" / bench.name) as folder:
        folder.mkdir()
        adapter = delivered[chosen].adapter
        info = adapter.info.model_copy(update={"report": _reported(run["summary"], len(seeds))})
        Adapter(adapter.factors, info).save(folder / "adapter")
        run["deliverable"] = {
            "seed": chosen,
            "identity": adapters.identity(folder / "adapter"),
            "metrics": delivered[chosen].metrics,
            "confusion": bench.confusion(adapter),
            "trained_on": sorted(delivered[chosen].trained_on),
        }
        write_json(folder / "run.json", run)
    results = root / "results"
    write_records(results / f"{bench.name}.jsonl", records(run))
    write_json(results / f"{bench.name}.json", _metrics(run))
    write_text(results / f"{bench.name}.csv", _curve([trained[0].history for trained in seeds.values()]))
    return run


def write_records(file: Path, found: Iterable[Record]) -> None:
    write_text(file, "".join(json.dumps(record, sort_keys=True) + "\n" for record in found))


def records(run: Run) -> Iterator[Record]:
    """One record per measured number, in percent, in the schema of every protocol."""
    about = {"dataset": run["dataset"], "source": run["dataset"], "split": run["data"]["split"]}
    for metric, value in sorted(run["zero_shot"].items()):
        protocol = ALL_CLASSES if metric in ("accuracy", "ece") else BASE_TO_NOVEL
        yield about | {
            "protocol": protocol,
            "method": "zero_shot",
            "shots": 0,
            "seed": None,
            "metric": metric,
            "value": value,
        }
    for seed, trained in run["seeds"].items():
        for one in trained:
            which = {"protocol": one["protocol"], "method": run["method"], "shots": one["shots"], "seed": int(seed)}
            for metric, value in sorted(one["metrics"].items()):
                yield about | which | {"metric": metric, "value": value}


def table(run: Run) -> list[dict[str, Any]]:
    """Rows for people: the zero-shot baseline, every seed, and their mean."""
    rows = [{"run": "zero-shot"} | run["zero_shot"]]
    for seed, trained in run["seeds"].items():
        rows.append({"run": f"{run['method']} seed {seed}"} | _flat(trained))
    rows.append({"run": f"{run['method']} mean"} | run["summary"])
    order = ("base", "novel", "hm", "accuracy", "accuracy_estimate", "validation", "ece")
    curve = [name for name in run["summary"] if name.startswith("accuracy_at_") and not name.endswith("_std")]
    names = [name for name in (*order, *curve) if any(name in row for row in rows)]
    return [{"run": row["run"]} | {name: f"{row[name]:.2f}" if name in row else "" for name in names} for row in rows]


def sentence(run: Run) -> str:
    """The result of a data set in one line."""
    zero, ours = run["zero_shot"], run["summary"]
    found = [f"{name} {zero[name]:.1f} -> {ours[name]:.1f}" for name in HEADLINES if name in zero and name in ours]
    if (estimate := ours.get("accuracy_estimate")) is not None:
        found.append(
            f"accuracy {zero['accuracy']:.1f} -> {estimate:.1f} (estimated by k-fold: too few pictures for a test part)"
        )
    return ", ".join(found) or "trained on every picture; there are too few of them to measure anything"


def described(bench: Bench, seeds: dict[int, list[Trained]], adapter: Adapter) -> dict[str, Any]:
    """What was trained, on and by what, and what came out for every seed; ``adapter`` is any of those that were."""
    found = {
        str(seed): [
            {
                "protocol": one.training.protocol,
                "shots": one.training.shots,
                "epochs": len(one.history),
                "metrics": one.metrics,
                "shown": one.shown,
                "history": one.history,
            }
            for one in trained
        ]
        for seed, trained in seeds.items()
    }
    return {
        "dataset": bench.name,
        "method": adapter.info.method,
        "data_hash": bench.manifest.hash,
        "split_hash": bench.split.hash,
        "backbone": adapter.info.backbone.model_dump(mode="json"),
        "mode": adapter.info.origin.mode,
        "trainable": adapter.shape.trainable,
        "zero_shot": bench.zero_shot(),
        "seeds": found,
    }


def _describe(bench: Bench, seeds: dict[int, list[Trained]], delivered: Trained) -> Run:
    manifest, known = bench.manifest, described(bench, seeds, delivered.adapter)
    return known | {
        "format": 2,
        "params": bench.params.resolved(),
        "data": {
            "source": manifest.source,
            "licence": manifest.licence,
            "split": manifest.split,
            "skipped": len(manifest.skipped),
            "classes": len(manifest.classes),
            "pictures": len(manifest.pictures),
        },
        "classes": list(manifest.classes),
        "summary": summarise([_flat(trained) for trained in known["seeds"].values()]),
    }


def _reported(summary: Metrics, seeds: int) -> dict[str, Reported]:
    """What the adapter's card says of the base-to-novel protocol, where it was run."""
    names = [name for name in ("base", "novel", "hm") if name in summary]
    return {name: Reported(mean=summary[name], std=summary[f"{name}_std"], seeds=seeds) for name in names}


def _flat(trained: list[dict[str, Any]]) -> Metrics:
    """The metrics of one seed under one name each; accuracies of the few-shot curve as `accuracy_at_<shots>`."""
    flat: Metrics = {}
    for one in trained:
        if one["protocol"] == FEW_SHOT:
            flat |= {f"accuracy_at_{one['shots']}": v for name, v in one["metrics"].items() if name == "accuracy"}
        else:
            flat |= one["metrics"]
    return flat


def _metrics(run: Run) -> dict[str, Metrics]:
    """DVC's metrics: what `dvc metrics diff` should compare."""
    wanted = {name: value for name, value in run["summary"].items() if not name.startswith(("ece", "validation"))}
    zero_shot = {name: value for name, value in run["zero_shot"].items() if not name.startswith("ece")}
    return {"zero_shot": zero_shot, run["method"]: wanted}


def _curve(histories: list[list[Epoch]]) -> str:
    """CSV of each epoch's values, averaged over seeds."""
    names = sorted(histories[0][0]) if histories[0] else ["loss"]  # dvc.yaml plots it; not every method trains in epochs
    lines = [",".join(["epoch", *names])]
    for number, epochs in enumerate(zip(*histories, strict=True), start=1):
        lines.append(",".join([str(number), *(f"{mean(epoch[name] for epoch in epochs):.6g}" for name in names)]))
    return "\n".join(lines) + "\n"
