"""The command `mmlop export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmlop.cli_output import show_table
from mmlop.errors import MmlopError

if TYPE_CHECKING:
    from mmlop.export.checking import Model


def export(
    uri: Annotated[str, typer.Argument(help="models:/mmlop-NAME@champion, runs:/ID/adapter or a folder.")],
    format: Annotated[str, typer.Option(help="onnx is the only one.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Also with weights of 8 bits; times are then measured.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder to write. [default: exported/mmlop-DATASET]")] = None,
    classes: Annotated[str | None, typer.Option(help="Other class names to choose from, separated by commas.")] = None,
) -> None:
    """Write an adapter with its backbone as a folder that classifies pictures without PyTorch.

    It holds an ONNX model with prompts and class names folded in, and a `predict.py` of its own.
    """
    from mmlop import export as exporting
    from mmlop.adapter import Adapter
    from mmlop.resolving import resolve
    from mmlop.versions import model_name

    if format != "onnx":
        raise MmlopError(f"There is no format '{format}': the only one is onnx.")
    adapter = resolve(uri)
    folder = out or Path("exported") / model_name(Adapter.load(adapter).info.origin.dataset)
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    found = exporting.export(adapter, folder, names, int8)
    if int8:
        show_table(f"{uri}, {len(found.classes)} classes", *_table(found.models))
    for model in found.models:
        if model.size is not None:
            typer.echo(
                f"{folder / model.name}: {model.size / 1e6:.1f} MB, logits differ by {model.difference:.1g} from PyTorch"
            )
    typer.echo(f"Try it: python {folder / 'predict.py'} PICTURE")


def _table(models: tuple[Model, ...]) -> tuple[list[str], list[list[str]]]:
    batches = list(models[0].seconds)
    header = ["model", "MB", *(f"ms for {batch}" for batch in batches)]
    rows = [
        [one.name, "" if one.size is None else f"{one.size / 1e6:.1f}", *(f"{1000 * one.seconds[b]:.1f}" for b in batches)]
        for one in models
    ]
    return header, rows
