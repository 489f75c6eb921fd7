"""Measurements of grids as `mmlop benchmark` leaves them, with numbers made up: for tests of what is said about them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlop import config
from mmlop.evaluation import harmonic_mean
from mmlop.files import write_json
from mmlop.grids import measurements, points

BINS = 15
METHODS = {  # trained numbers, base and novel accuracy around which results are made up
    "mmlop": (1020, 80.0, 62.0),
    "promptsrc": (2700, 81.0, 61.0),
    "maple": (99_000, 79.0, 58.0),
    "ivlp": (2700, 82.0, 55.0),
    "coop": (256, 76.0, 54.0),
    "zero_shot": (0, 59.0, 59.0),
    "linear_probe": (1290, 83.0, None),
}


def family(root: Path, datasets: Sequence[str] = ("mini_sketch", "mini_digits"), classes: int = 6) -> None:
    """A grid of methods."""
    for method, (trainable, base, novel) in METHODS.items():
        for dataset in datasets:
            put(root, "family", method, {"method": method}, dataset, trainable, base, novel, names(classes))


def ablation(root: Path, datasets: Sequence[str] = ("mini_sketch", "mini_digits")) -> None:
    plain = {"prompts.form": "low_rank", "loss.drift_correction": False}
    changes: dict[str, tuple[dict[str, Any], float]] = {
        "ivlp": ({"method": "ivlp"}, 55.0),
        "form=low_rank, text=0, image=0, logits=0, drift_correction=false": (
            {"prompts.form": "low_rank", "loss.text": 0, "loss.image": 0, "loss.logits": 0, "loss.drift_correction": False},
            54.0,
        ),
        "form=low_rank, drift_correction=false": (plain, 61.0),
        "mmlop": ({"method": "mmlop"}, 62.0),
        "drift_correction=false": ({"loss.drift_correction": False}, 58.0),
        "form=low_rank": ({"prompts.form": "low_rank"}, 61.8),
        "rank=2": ({"prompts.rank": 2}, 60.0),
    }
    for point, (overrides, novel) in changes.items():
        for dataset in datasets:
            put(root, "ablation", point, overrides, dataset, 1020, 80.0, novel, names(4))


def shots(root: Path, datasets: Sequence[str] = ("mini_digits",)) -> None:
    for method in ("mmlop", "coop"):
        for number in (1, 4, 16):
            overrides = {"fewshot.shots": number, "method": method}
            trainable, base, novel = METHODS[method]
            for dataset in datasets:
                point = f"shots={number}, {method}"
                put(root, "shots", point, overrides, dataset, trainable, base - 12 / number, novel, names(4), shots=number)


def as_planned(root: Path, grid: str) -> None:
    """Let the measurements of a grid have been made with the settings that params.yaml gives its points."""
    params = config.load(root / "params.yaml")
    settings = {point.label: point.params.resolved() for point in points.plan(grid, params).points}
    for file in (root / measurements.FOLDER / grid).glob("*/*.json"):
        one = json.loads(file.read_text())
        write_json(file, one | {"settings": settings.get(one["point"], {})})


def names(classes: int) -> list[str]:
    return [f"thing {place}" for place in range(classes)]


def put(
    root: Path,
    grid: str,
    point: str,
    overrides: Mapping[str, Any],
    dataset: str,
    trainable: int,
    base: float,
    novel: float | None,
    classes: Sequence[str],
    shots: int = 16,
    seeds: Iterable[int] = (1, 2, 3),
) -> Path:
    half = (len(classes) + 1) // 2
    groups = {"base": (base, list(classes[:half])), "novel": (novel, list(classes[half:]))}
    groups = {name: (around, found) for name, (around, found) in groups.items() if around is not None}
    method = str(overrides.get("method", "mmlop"))
    results = {seed: outcome(f"{grid} {point} {dataset} {seed}", groups, shots) for seed in seeds}
    file = root / "results" / "benchmark" / grid / re.sub(r"[^A-Za-z0-9.=]+", "_", point) / f"{dataset}.json"
    write_json(
        file,
        {
            "format": 1,
            "key": hashlib.sha256(f"{grid} {point} {dataset}".encode()).hexdigest(),
            "grid": grid,
            "point": point,
            "overrides": dict(overrides),
            "dataset": dataset,
            "method": method,
            "shots": shots,
            "trainable": trainable,
            "seconds": 10.0 + trainable / 1000,
            "gigabytes": 0.6,
            "settings": {},
            "source": "made up",
            "split": "rendered",
            "licence": "none",
            "part": "test",
            "backbone": {"name": "mini", "weights": "shipped"},
            "mode": {"device": "cpu", "machine": "Linux x86_64", "threads": 1, "libraries": {"torch": "2.14"}},
            "base": groups["base"][1],
            "novel": groups["novel"][1] if "novel" in groups else [],
            "zero_shot": {"base": 59.0, "novel": 59.0, "hm": 59.0, "ece_base": 20.0, "ece_novel": 20.0},
            "seeds": {str(seed): [one] for seed, one in results.items()},
        },
    )
    return file


def outcome(seed: str, groups: Mapping[str, tuple[float, list[str]]], shots: int) -> dict[str, Any]:
    """One training's metrics, and pictures of 40 per class that come to about them."""
    random_ = random.Random(seed)
    metrics, shown = {}, {}
    for name, (around, classes) in groups.items():
        metrics[name] = round(around + random_.gauss(0, 2), 4)
        metrics[f"ece_{name}"] = round(abs(random_.gauss(8, 2)), 4)
        shown[name] = {"reliability": reliability(random_), "confusion": confusion(random_, len(classes), metrics[name])}
    if "novel" in metrics:
        metrics["hm"] = round(harmonic_mean(metrics["base"], metrics["novel"]), 4)
    return {"protocol": "base_to_novel", "shots": shots, "epochs": 8, "metrics": metrics, "shown": shown}


def reliability(random_: random.Random) -> list[list[float]]:
    bins = []
    for place in range(BINS):
        middle = 100 * (place + 0.5) / BINS
        count = random_.randrange(1, 60) if place > 2 else 0
        bins.append([count, middle if count else 0.0, max(0.0, middle - random_.uniform(0, 20)) if count else 0.0])
    return bins


def confusion(random_: random.Random, classes: int, accuracy: float) -> list[list[int]]:
    counts = [[0] * classes for _ in range(classes)]
    for label in range(classes):
        for _ in range(40):
            right = random_.random() * 100 < accuracy
            counts[label][label if right else random_.randrange(classes)] += 1
    return counts
