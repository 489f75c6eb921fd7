"""Exported models beside the classifier they were made of: how far apart their scores are, and how long each takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmlop.classifier import Classifier
from mmlop.errors import MmlopError
from mmlop.export.graph import INPUT, Scores

TOLERANCE = 1e-3  # of logits in fp32
CHECKED = 6  # pictures
BATCHES = (1, 16)  # pictures at once whose time is measured
SECONDS = 1.0  # of measuring each, in at least three runs


@dataclass(frozen=True)
class Model:
    """One way to compute the scores: a file, or PyTorch."""

    name: str
    size: int | None = None  # bytes; None of PyTorch
    difference: float = 0.0  # the largest difference of a logit from PyTorch
    seconds: dict[int, float] = field(default_factory=dict)  # by pictures at once; empty where not measured


def compare(files: Sequence[Path], classifier: Classifier, classes: tuple[str, ...]) -> list[Model]:
    """How close to the classifier the models in ``files`` are, the first of which is in fp32.

    Raises MmlopError where that one's logits differ by more than TOLERANCE."""
    pictures = sample(classifier.backbone.preprocessing.size, CHECKED)
    expected = classifier.logits(torch.from_numpy(pictures), classes).numpy()
    found = []
    for file in files:
        running = session(file)
        halves = [running.run(["logits"], {INPUT: batch})[0] for batch in (pictures[:1], pictures[1:])]
        found.append(Model(file.name, _bytes(file), float(np.abs(np.concatenate(halves) - expected).max())))
    if not found[0].difference <= TOLERANCE:  # a difference that is not a number is none to accept
        raise MmlopError(
            f"The exported model's logits differ by {found[0].difference:.2g} from PyTorch's, where {TOLERANCE:g} is "
            f"allowed, so it was not kept: please report this, with the versions of torch, onnxscript and onnxruntime."
        )
    return found


def timed(files: Sequence[Path], scores: Scores) -> dict[str, dict[int, float]]:
    """Seconds by file name (and "PyTorch") and by the number of pictures at once, BATCHES: medians on this machine."""
    found: dict[str, dict[int, float]] = {"PyTorch": {}, **{file.name: {} for file in files}}
    running = {file.name: session(file) for file in files}
    for batch in BATCHES:
        pictures = sample(scores.backbone.preprocessing.size, batch)
        found["PyTorch"][batch] = _median(_torch, scores, torch.from_numpy(pictures))
        for name, one in running.items():
            found[name][batch] = _median(one.run, None, {INPUT: pictures})
    return found


def sample(size: int, count: int) -> np.ndarray:
    """Pictures uint8 [count, 3, size, size] of smooth and of fine noise, the same ones every time."""
    generator = np.random.default_rng(0)
    pictures = []
    for index in range(count):
        side = 2 ** (1 + index % CHECKED)
        coarse = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pictures.append(np.asarray(coarse.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
    return np.stack(pictures)


def session(file: Path) -> Any:
    """The file in onnxruntime on the CPU, with as many threads as PyTorch has, for a fair comparison."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def _torch(scores: Scores, pictures: torch.Tensor) -> None:
    scores(pictures)


def _median(call: Callable[..., Any], *arguments: Any) -> float:
    call(*arguments)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < SECONDS and len(times) < 100):
        start = time.perf_counter()
        call(*arguments)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _bytes(file: Path) -> int:
    """With the weights beside it, where it is too large for one file."""
    return sum(one.stat().st_size for one in (file, file.with_name(f"{file.name}.data")) if one.exists())
