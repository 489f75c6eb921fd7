"""What a measurement starts from: a backbone, data and shots, kept by a process for further ones; and a key of them all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmlop import backbone as backbones
from mmlop import cache, config, configured
from mmlop.backbone import Backbone
from mmlop.config import Params
from mmlop.data import datasets, splits
from mmlop.data.manifest import Fetched
from mmlop.data.splits import Split
from mmlop.errors import MmlopError
from mmlop.grids.points import Plan, Point, Refused
from mmlop.protocols import shots_needed

FORMAT = 1  # of a result, and of what its key is made of
LIBRARIES = ("torch", "torchvision", "open_clip_torch", "pillow", "numpy", "scikit-learn")  # that compute
# Of the modules that decide a result; those that only hand on what settings say are not among them.
CODE = (
    *(
        "adapter.py",
        "backbone.py",
        "classifier.py",
        "configured.py",
        "decoding.py",
        "encode.py",
        "evaluation.py",
        "experiment.py",
    ),
    *("features.py", "heads.py", "lora.py", "losses.py", "probe.py", "prompts.py", "recorded.py", "shapes.py", "tip.py"),
    *("training.py", "views.py"),
    *("data/pictures.py", "data/reading.py", "data/splits.py", "data/templates.py", "data/mini/clip.py"),
)


def loaded(params: Params) -> Backbone:
    """The point's backbone. Raises MmlopError if it cannot be loaded."""
    profile = params.profile
    return _loaded(profile.architecture, profile.weights, profile.precision, params.device, profile.resolution)


_loaded = lru_cache(maxsize=2)(backbones.load)


@lru_cache(maxsize=16)
def fetched(root: Path, dataset: str) -> Fetched:
    """A data set of the project. Raises MmlopError if it was not fetched."""
    return datasets.fetched(dataset, config.load(root / "params.yaml"), root)


@lru_cache(maxsize=64)
def split_of(root: Path, dataset: str, shots: tuple[int, ...], seeds: tuple[int, ...]) -> Split:
    """The shots of every seed, drawn as the pipeline draws them. Raises MmlopError for a class without pictures."""
    return splits.make(fetched(root, dataset).manifest, shots, seeds)


def forget() -> None:
    """After a fetch, data may be others; and a backbone that is done with takes memory."""
    _loaded.cache_clear()
    fetched.cache_clear()
    split_of.cache_clear()


def fitting(plan: Plan, checked: bool = True) -> Plan:
    """The plan with those points refused that do not fit into their backbones; without ``checked``, only of backbones that
    need no download. Raises MmlopError if a backbone cannot be loaded."""
    fitting, refused = [], list(plan.refused)
    for point in plan.points:
        if checked or is_here(point.params):
            backbone = loaded(point.params)
            try:
                configured.shape(point.params, backbone)
            except MmlopError as error:
                refused.append(Refused(point.label, point.overrides, str(error)))
                continue
        fitting.append(point)
    return replace(plan, points=tuple(fitting), refused=tuple(refused))


# ---- the key ----


def key(root: Path, point: Point, dataset: str) -> str:
    """A hash of all that decides the result: settings, protocols, data, shots, backbone, code, and what computes it, by how
    many threads."""
    split = split_of(root, dataset, tuple(shots_needed(point.params)), point.params.fewshot.seeds)
    profile = point.params.profile
    about = [
        FORMAT,
        point.decisive,
        split.manifest,
        split.hash,
        weights_of(profile.architecture, profile.weights),
        computed_by(point.params.device) | {"threads": threads(point.params)},
        code(),
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def code() -> str:
    """A hash of the source code that decides a result."""
    return cache.sources(*CODE)


def threads(params: Params) -> int:
    """How many threads a measurement computes with."""
    return params.threads or os.cpu_count() or 1


@lru_cache
def weights_of(architecture: str, weights: str | None) -> str | None:
    """A hash of the files that a backbone comes from; None where it is open_clip's tag that says which they are."""
    if (place := _place(architecture, weights)) is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(place.iterdir()) if place.is_dir() else [place]:
        if file.is_file():
            digest.update(f"{file.name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def is_here(params: Params) -> bool:
    """Whether the backbone can be loaded without downloading it, on this machine's device."""
    found = _place(params.profile.architecture, params.profile.weights) is not None
    return found and (not params.device.startswith("cuda") or torch.cuda.is_available())


def _place(architecture: str, weights: str | None) -> Path | None:
    """The folder or file with a backbone's weights; None for a tag of open_clip."""
    if architecture == "mini":
        return Path(__file__).parents[1] / "data" / "mini" / "weights"
    if (folder := Path(architecture).expanduser()).is_dir():
        return folder
    return file if weights and (file := Path(weights).expanduser()).is_file() else None


@lru_cache
def computed_by(device: str) -> dict[str, Any]:
    """What `mode.of` says, as far as it can be told without a backbone: another processor gives other last bits."""
    where = torch.device(device)
    return {
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" and torch.cuda.is_available() else None,
        "machine": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "libraries": {name: version(name) for name in LIBRARIES},
    }
