"""The command `mmlop`. Every command parses, calls one function and shows its result; heavy imports are inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmlop import privacy
from mmlop.cli_bench import bench
from mmlop.cli_benchmark import benchmark
from mmlop.cli_data import app as data_app
from mmlop.cli_deploy import deploy, retrain, worker
from mmlop.cli_drift import drift
from mmlop.cli_export import export
from mmlop.cli_methods import methods
from mmlop.cli_output import AsJson, Dataset, Quiet, dvc, print_json, require_listed, show_table
from mmlop.cli_predict import evaluate, predict
from mmlop.cli_registry import app as registry_app
from mmlop.cli_report import report
from mmlop.cli_serve import serve
from mmlop.cli_status import status
from mmlop.errors import MmlopError

app = typer.Typer(
    help="Adapt CLIP to your own classes from 1-16 pictures each, and keep the adapter's whole life in order.",
    epilog="Start with `dvc repro` (everything) or `mmlop train mini_digits` (one data set).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
mini_app = typer.Typer(help="The small CLIP shipped with the package.", no_args_is_help=True)
params_app = typer.Typer(help="The configuration, params.yaml.", no_args_is_help=True)
for group, name in ((data_app, "data"), (registry_app, "registry"), (params_app, "params"), (mini_app, "mini")):
    app.add_typer(group, name=name)
for command in (
    bench,
    benchmark,
    deploy,
    drift,
    evaluate,
    export,
    methods,
    predict,
    report,
    retrain,
    serve,
    status,
    worker,
):
    app.command()(command)


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 1."""
    privacy.apply()
    try:
        app(prog_name="mmlop")
    except MmlopError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


def version(show: bool) -> None:
    if show:
        import mmlop

        typer.echo(f"mmlop {mmlop.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command()
def train(
    dataset: Dataset,
    force: Annotated[bool, typer.Option("--force", help="Train again although nothing changed.")] = False,
    quiet: Quiet = False,
) -> None:
    """Bring a data set's adapter up to date: fetch, split, train, measure, register.

    This is `dvc repro train@DATASET`: what did not change is not done again. Pictures of your own are looked through first.
    """
    from mmlop import config

    require_listed(dataset)
    if dataset in config.load().sources:  # outside the project, where DVC does not look
        dvc("repro", "--force", "--single-item", f"fetch@{dataset}", quiet=quiet)
    if force:
        dvc("repro", f"split@{dataset}", quiet=quiet)
    dvc("repro", *(["--force", "--single-item"] if force else []), f"train@{dataset}", quiet=quiet)


@params_app.command("check")
def params_check(as_json: AsJson = False) -> None:
    """Validate params.yaml and show what it comes to for the chosen backbone."""
    from mmlop import config, tracking
    from mmlop.data import datasets

    params = config.load()
    for dataset in (*params.datasets, *params.test_sets, *params.data.own_split):
        datasets.get(dataset, params)
    if as_json:
        print_json(params.resolved() | {"datasets": list(params.datasets)})
        return
    rows = [[name, value] for name, value in tracking.flatten(params.resolved()).items()]
    show_table("params.yaml is valid; it comes to", ["key", "value"], rows)


@mini_app.command("pretrain")
def mini_pretrain(
    out: Annotated[Path, typer.Option(help="Folder for weights, configuration and provenance.")] = Path("mini-clip"),
    steps: Annotated[int, typer.Option(min=1, help="Optimisation steps of 160 pictures.")] = 1950,
    seed: Annotated[int, typer.Option(help="Of pictures and starting weights.")] = 0,
    work: Annotated[Path, typer.Option(help="Folder of the checkpoint a stopped run continues from.")] = Path(
        ".mmlop/mini-pretrain"
    ),
) -> None:
    """Train mini-CLIP from rendered pictures. Stop it at any time: the same command continues."""
    from mmlop.data.mini.pretrain import pretrain

    pretrain(out, steps, seed, work)
    typer.echo(f"mini-CLIP is in {out}")


if __name__ == "__main__":
    main()
