"""Figures, drawn without a display and without pyplot's global state (stages run in threads)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

NAMED = 110  # classes up to which every row carries its name
COUNTED = 30  # classes up to which every cell carries its count


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str], title: str, file: Path) -> None:
    """Draw counts [C, C] of (label, prediction) as a PNG, each row coloured by its share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = np.asarray(counts)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.28 * len(classes), 20.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label's pictures", shrink=0.8, aspect=30)
    axes.set(title=title, xlabel="prediction", ylabel="label")
    step = 1 if len(classes) <= NAMED else -(-len(classes) // NAMED)
    ticks = list(range(0, len(classes), step))
    names = [_short(classes[i]) for i in ticks]
    size = 9 if len(classes) <= COUNTED else 6
    axes.set_xticks(ticks, names, rotation=90, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    if len(classes) <= COUNTED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour)
    # Without these, the file would name the version of matplotlib: other bytes for the same picture.
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
