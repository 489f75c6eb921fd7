"""The command `mmlop bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmlop.errors import MmlopError


def bench(
    parts: Annotated[str, typer.Option("--parts", help="What to measure, separated by commas.")] = (
        "step,text,evaluation,decoding"
    ),
    classes: Annotated[str, typer.Option(help="Numbers of classes (ImageNet's first), separated by commas.")] = (
        "50,500,1000"
    ),
    batch: Annotated[int, typer.Option(help="Pictures of a training step.")] = 4,
    precision: Annotated[
        str | None,
        typer.Option(help="Ours: fp32, bf16, fp16, separated by commas. [default: fp32, and bf16 if it is fast]"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    runs: Annotated[int, typer.Option(help="Runs of which the median counts; at most 3 from 500 classes on.")] = 5,
    architecture: Annotated[str, typer.Option(help="open_clip's name, or a folder with its configuration.")] = (
        "ViT-B-16-quickgelu"
    ),
    memory: Annotated[float | None, typer.Option(help="GB that the plain step may take. [default: what is free]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first impression: 20 classes, 2 runs, small batches.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw time and memory against classes into this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Measure the training step against a plain one: time, memory, and their ratios, on random weights.

    Every ratio is against the plain step in fp32 (all 77 rows of every class, nothing shared), measured in turns with ours.
    """
    from rich.console import Console

    from mmlop import bench as benches
    from mmlop.bench import table
    from mmlop.files import dump_json

    settings = benches.Settings(
        classes=_numbers(classes), precisions=_names(precision or ""), parts=_names(parts), batch=batch, runs=runs,
        device=device, architecture=architecture, memory=memory,
    )  # fmt: skip
    if quick:
        settings = settings.quick()
    if plot and "step" not in settings.parts:
        raise MmlopError("--plot draws the part 'step', which --parts leaves out: add it.")
    if plot:
        table.require_writable(plot)
    report = benches.run(settings, lambda what: typer.echo(f"measuring: {what}", err=True))
    if as_json:
        typer.echo(dump_json(report), nl=False)
    else:
        console = Console()
        console.print(table.heading(report), highlight=False)
        for found in table.tables(report):
            console.print(found)
    if plot:  # last: whatever becomes of it, the figures are there
        table.plot(report, plot)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(name) for name in _names(text))
    except ValueError:
        raise MmlopError(f"--classes is '{text}': give whole numbers separated by commas, e.g. 50,500.") from None
