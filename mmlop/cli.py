"""The command `mmlop`. Every command parses, calls one function and shows its result; heavy imports are inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mmlop import privacy
from mmlop.cli_bench import bench
from mmlop.cli_benchmark import benchmark
from mmlop.cli_data import app as data_app
from mmlop.cli_deploy import deploy, retrain, worker
from mmlop.cli_methods import methods
from mmlop.cli_output import AsJson, Dataset, Quiet, dvc, print_json, require_listed, show_table
from mmlop.cli_predict import evaluate, predict
from mmlop.cli_report import report
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
registry_app = typer.Typer(help="Registered adapters: list, show, promote, sync.", no_args_is_help=True)
for group, name in ((data_app, "data"), (registry_app, "registry"), (params_app, "params"), (mini_app, "mini")):
    app.add_typer(group, name=name)
for command in (bench, benchmark, deploy, evaluate, methods, predict, report, retrain, status, worker):
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


@registry_app.command("list")
def registry_list(
    dataset: Annotated[str | None, typer.Argument(help="One data set only.")] = None, as_json: AsJson = False
) -> None:
    """Registered adapters with their aliases and accuracy."""
    from mmlop import registry

    found = registry.versions(dataset)
    if as_json:
        print_json([version.as_dict() for version in found])
        return
    rows = [[v.name, str(v.version), ", ".join(v.aliases), _metrics(v.metrics), v.created] for v in found]
    show_table("Registered adapters", ["name", "version", "aliases", "metrics %", "created"], rows)


@registry_app.command("show")
def registry_show(
    uri: Annotated[str, typer.Argument(help="models:/mmlop-NAME@champion or models:/mmlop-NAME/1.")],
    as_json: AsJson = False,
) -> None:
    """One registered adapter: where it comes from and what it reached."""
    from mmlop import registry
    from mmlop.adapter import Adapter

    info = Adapter.load(registry.resolve(uri)).info.model_dump(mode="json")
    if as_json:
        print_json(info)
        return
    show_table(uri, ["key", "value"], [[key, _short(value)] for key, value in _flat(info)])


@registry_app.command("promote")
def registry_promote(
    dataset: Dataset,
    version: Annotated[int, typer.Argument(min=1, help="The version that should become champion.")],
    force: Annotated[str | None, typer.Option(metavar="REASON", help="Decide by hand; the reason is stored.")] = None,
) -> None:
    """Let a version challenge the champion; it takes over if it is better on validation pictures."""
    from mmlop import config, registry

    params = config.load()
    decision = registry.promote(dataset, version, params.champion, force, device=params.device)
    typer.echo(decision.reason)
    if decision.outcome in ("too_few", "not_compared"):
        raise typer.Exit(1)


@registry_app.command("sync")
def registry_sync(
    dataset: Annotated[str | None, typer.Argument(help="One data set only.")] = None, quiet: Quiet = False
) -> None:
    """Log and register what is on disk in runs/ and not yet in MLflow (after an outage, `dvc pull`, a lost database)."""
    from mmlop import config, registry

    for published in registry.sync(config.root(), dataset):
        if not quiet:
            typer.echo(published.sentence)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in sorted(metrics.items()))


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, inner in value.items():
        flat += _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else [(f"{prefix}{key}", inner)]
    return flat


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


if __name__ == "__main__":
    main()
