"""The bench's results as tables and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmlop.errors import MmlopError
from mmlop.files import replacing

REFERENCE, OURS = "#777777", {"fp32": "#1f77b4", "bf16": "#d95f02", "fp16": "#2ca02c"}


def heading(report: dict[str, Any]) -> str:
    """What was measured on, as one line."""
    machine, settings = report["machine"], report["settings"]
    found = sorted((row["precision"], row["matmul_gflops"]) for row in report["rows"] if "matmul_gflops" in row)
    rates = [f"{rate:.0f} GFLOP/s in {precision}" for precision, rate in dict(found).items()]  # the best of each
    tf32 = [f"TF32 {'on' if machine['tf32'] else 'off'}"] if "tf32" in machine else []
    threads = f"{machine['threads']} threads, torch {machine['torch']}"
    return ", ".join([settings["architecture"], machine["device"], machine["name"], threads, *tf32, *rates])


def tables(report: dict[str, Any]) -> Iterator[Group]:
    """One table for each kind of measurement, under its title."""
    rows, settings = report["rows"], report["settings"]
    if steps := [row for row in rows if row["part"] in ("step", "text")]:
        title = f"Training, batch {settings['batch']}: ours against the plain step in fp32"
        columns = ("part", "classes", "ours in", "s", "plain s", "faster", "GB", "plain GB", "less", "of matmul")
        extended = sorted({tuple(row["reference_classes"]) for row in steps if row["extrapolated"]})
        notes = [
            f"~ the line through the plain step at {few} and {many} classes, the most that fit" for few, many in extended
        ]
        if any(row["recorded"] for row in steps):
            notes.append("ours runs as a recorded CUDA graph, as training does; the plain step is launched as it is")
        yield _table(title, columns, [_training(row) for row in steps], notes)
    if evaluations := [row for row in rows if row["part"] == "evaluation"]:
        title = f"Evaluation, batch {settings['evaluation_batch']}: pictures per second against open_clip's encode_image"
        cells = [
            [
                row["precision"] + (", prompted" if row["prompts"] else ""),
                f"{row['pictures_per_second']:.1f}",
                f"{row['reference_pictures_per_second']:.1f}",
                f"{row['speedup']:.2f}x",
            ]
            for row in evaluations
        ]
        yield _table(title, ("ours in", "ours", "open_clip", "ratio"), cells)
    for row in rows:
        if row["part"] == "decoding":
            title = "Training views of 64 JPEG pictures of 500x375: decoded once against each time"
            seconds = [f"{row['seconds']:.3f}", f"{row['reference_seconds']:.3f}", f"{row['speedup']:.2f}x"]
            yield _table(title, ("s", "each time s", "faster"), [seconds])


def _training(row: dict[str, Any]) -> list[str]:
    about = "~" if row["extrapolated"] else ""
    return [
        row["part"] + (", f given" if row["cached_views"] else ""),
        str(row["classes"]),
        row["precision"],
        f"{row['seconds']:.3f}",
        f"{about}{row['reference_seconds']:.2f}",
        f"{about}{row['speedup']:.2f}x",
        f"{row['peak'] / 1e9:.2f}",
        f"{about}{row['reference_peak'] / 1e9:.2f}",
        f"{about}{row['memory_ratio']:.1f}x",
        f"{row['matmul_share']:.0%}",
    ]


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw step time and peak memory against the number of classes as a PNG; hollow where extended. Raises MmlopError if
    the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    rows = [row for row in report["rows"] if row["part"] == "step" and not row["cached_views"]]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("seconds", "seconds per step", 1.0), ("peak", "peak memory, GB", 1e9))
    for axes, (key, label, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        for precision in dict.fromkeys(row["precision"] for row in rows):
            points = sorted((row["classes"], row[key] / unit) for row in rows if row["precision"] == precision)
            axes.plot(*zip(*points, strict=True), "o-", color=OURS[precision], label=f"ours, {precision}")
        plain = sorted({row["classes"]: (row[f"reference_{key}"] / unit, row["extrapolated"]) for row in rows}.items())
        classes, values = [count for count, _ in plain], [value for _, (value, _) in plain]
        axes.plot(classes, values, "-", color=REFERENCE, label="plain, fp32")
        for count, (value, extended) in plain:
            axes.plot(count, value, "o", color=REFERENCE, markerfacecolor="white" if extended else REFERENCE)
        axes.set(xlabel="classes", ylabel=label, yscale="log")
        axes.yaxis.set_major_formatter(LogFormatter())  # plain numbers, no powers
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(f"{report['settings']['architecture']}, batch {report['settings']['batch']}")
    try:
        with replacing(file) as beside:
            figure.savefig(beside, format="png", dpi=120, metadata={"Software": None})
    except OSError as error:
        raise _unwritable(file, error) from error


def require_writable(file: Path) -> None:
    """Raises MmlopError if ``plot`` could not write the file: better known before the measurements than after them."""
    try:
        if file.is_dir():
            raise MmlopError(f"--plot {file} is a folder: name a file, e.g. {file / 'bench.png'}.")
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent):
            pass
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> MmlopError:
    reason = error.strerror or str(error)
    return MmlopError(f"The plot cannot be written to {file} ({reason}): give --plot a file in another folder.")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> Group:
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in ("part", "ours in") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return Group(Text(f"\n{title}", style="italic"), table, *(Text(note) for note in notes))
