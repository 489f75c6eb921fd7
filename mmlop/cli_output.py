"""What the commands share: common options, tables and JSON, and calling DVC."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from mmlop.errors import MmlopError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
Dataset = Annotated[str, typer.Argument(help="A data set's name; `mmlop data list` shows them.")]


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    look: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "padding": 0, "show_edge": False}
    table = Table(*map(escape, header), title=escape(title), **look)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def require_listed(dataset: str) -> None:
    """Raise MmlopError unless the data set is among `datasets` in params.yaml."""
    from mmlop import config
    from mmlop.data import datasets

    params = config.load()
    datasets.get(dataset, params)
    if dataset not in params.datasets:
        raise MmlopError(f"'{dataset}' is not among `datasets` in params.yaml: add it there first.")


def dvc(*arguments: str, quiet: bool = False) -> None:
    """DVC in a process of its own, at the project's root; its exit code becomes ours."""
    import os
    import subprocess

    from mmlop import config

    options = ["--quiet"] if quiet else []
    output = subprocess.DEVNULL if quiet else None
    command = [sys.executable, "-m", "dvc", *arguments, *options]
    environment = os.environ | config.this_python() | ({"MMLOP_LOG_LEVEL": "WARNING"} if quiet else {})
    if code := subprocess.run(command, cwd=config.root(), stdout=output, env=environment).returncode:
        raise typer.Exit(code)
