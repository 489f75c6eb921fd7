"""The command `mmlop`. Every command parses, calls one function and shows its result; heavy imports are inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmlop.errors import MmlopError

if TYPE_CHECKING:
    from mmlop.classifier import Prediction
    from mmlop.data.datasets import DataSet

app = typer.Typer(
    help="Adapt CLIP to your own classes from 1-16 pictures each, and keep the adapter's whole life in order.",
    epilog="Start with `dvc repro` (everything) or `mmlop train mini_digits` (one data set).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets: list, fetch, split, show.", no_args_is_help=True)
mini_app = typer.Typer(help="The small CLIP shipped with the package.", no_args_is_help=True)
params_app = typer.Typer(help="The configuration, params.yaml.", no_args_is_help=True)
registry_app = typer.Typer(help="Registered adapters: list, show, promote, sync.", no_args_is_help=True)
for group, name in ((data_app, "data"), (registry_app, "registry"), (params_app, "params"), (mini_app, "mini")):
    app.add_typer(group, name=name)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
Dataset = Annotated[str, typer.Argument(help="A data set's name; `mmlop data list` shows them.")]


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 1."""
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

    This is `dvc repro train@DATASET`: what did not change is not done again.
    """
    _configured(dataset)
    if force:
        _dvc("repro", f"split@{dataset}", quiet=quiet)
    _dvc("repro", *(["--force", "--single-item"] if force else []), f"train@{dataset}", quiet=quiet)


@app.command()
def evaluate(
    uri: Annotated[str, typer.Argument(help="models:/mmlop-NAME@champion, runs:/ID/adapter or a folder.")],
    dataset: Annotated[str | None, typer.Option(help="Another data set than the adapter's.")] = None,
    part: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score an adapter on a fetched data set: accuracy, calibration error, per class."""
    import mmlop
    from mmlop import config, scoring

    classifier = mmlop.load(uri, device)
    name = dataset or classifier.adapter.info.origin.dataset
    score = scoring.score(classifier, config.root() / "data" / name, part)
    if as_json:
        _print_json(score.as_dict())
        return
    rows = [[c, "" if a is None else f"{a:.1f}"] for c, a in score.per_class.items()]
    _table(f"{uri} on {name} ({part})", ["class", "accuracy %"], rows)
    typer.echo(f"accuracy {score.accuracy:.2f} %, calibration error {score.ece:.2f} %, {score.pictures} pictures")


@app.command()
def predict(
    uri: Annotated[str, typer.Argument(help="models:/mmlop-NAME@champion, runs:/ID/adapter or a folder.")],
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Labels to show per picture.")] = 1,
    classes: Annotated[str | None, typer.Option(help="Score these class names instead, separated by commas.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Classify pictures. Scores are probabilities over one label set, which is named first."""
    import mmlop
    from mmlop import scoring

    classifier = mmlop.load(uri, device)
    names = tuple(name.strip() for name in classes.split(",") if name.strip()) if classes else classifier.classes
    if not as_json:
        whose = "given with --classes" if classes else f"of {classifier.adapter.info.origin.dataset}"
        typer.echo(f"Scoring {len(names)} classes {whose}: {', '.join(names)}", err=True)
    failed = 0
    for path, found in scoring.predictions(classifier, scoring.picture_files(pictures), names):
        if isinstance(found, MmlopError):
            failed += 1
            typer.echo(f"Error: {found}", err=True)
        else:
            typer.echo(_prediction_line(path, found, top, as_json))
    if failed:
        raise typer.Exit(1)


@app.command()
def report(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Write reports/ from the results of the configured data sets and show the table."""
    from mmlop import config
    from mmlop import report as reports

    summary = reports.write(config.root(), config.load().datasets)
    if as_json:
        _print_json(summary)
    elif not quiet:
        header, rows = reports.table(summary)
        shown = [method if i == 0 or header[i - 1][0] != method else "" for i, (method, _) in enumerate(header)]
        columns = [f"{method}\n{metric}" for method, (_, metric) in zip(shown, header, strict=True)]
        _table("", ["\ndata set", *columns], rows)
        typer.echo(reports.CAPTION)


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """All data sets, and which are fetched."""
    from mmlop import config
    from mmlop.data import datasets

    root, sources = config.root(), config.load().sources
    found = [datasets.get(name, sources) for name in datasets.names(sources)]
    here = {d.name: (root / "data" / d.name / "manifest.json").exists() for d in found}
    if as_json:
        _print_json([{"name": d.name, "classes": _count(d), "fetched": here[d.name]} for d in found])
        return
    rows = [[d.name, str(_count(d)), "yes" if here[d.name] else "no", d.description] for d in found]
    _table("Data sets", ["name", "classes", "fetched", "what it shows"], rows)


@data_app.command("fetch")
def data_fetch(dataset: Dataset, quiet: Quiet = False) -> None:
    """Put a data set's pictures and manifest into data/DATASET."""
    from mmlop import config
    from mmlop.data import datasets

    params = config.load()
    known = datasets.get(dataset, params.sources)
    if dataset in params.datasets:  # DVC knows it: let it decide, and keep its lock file true
        _dvc("repro", f"fetch@{dataset}", quiet=quiet)
        return
    drawing = datasets.Drawing(params.data.seed, params.data.per_class.model_dump())
    manifest = datasets.fetch(known, config.root() / "data" / dataset, drawing)
    if not quiet:
        typer.echo(f"{dataset}: {len(manifest.pictures)} pictures of {len(manifest.classes)} classes in data/{dataset}")


@data_app.command("split")
def data_split(dataset: Dataset, quiet: Quiet = False) -> None:
    """Draw a data set's few-shot splits into splits/DATASET.json."""
    _configured(dataset)
    _dvc("repro", f"split@{dataset}", quiet=quiet)


@data_app.command("show")
def data_show(dataset: Dataset, as_json: AsJson = False) -> None:
    """Counts per part and class, base and novel classes, template and licence of a fetched data set."""
    from mmlop import config, scoring
    from mmlop.data import datasets

    datasets.get(dataset, config.load().sources)
    overview = scoring.overview(config.root() / "data" / dataset)
    if as_json:
        _print_json(overview)
        return
    rows = [[c["name"], c["half"], *(str(c[part]) for part in ("train", "val", "test"))] for c in overview["classes"]]
    _table(f"{dataset}: {overview['source']}", ["class", "half", "train", "val", "test"], rows)
    typer.echo(f"template: {overview['template']}   licence: {overview['licence']}   hash: {overview['hash'][:16]}")


@params_app.command("check")
def params_check(as_json: AsJson = False) -> None:
    """Validate params.yaml and show what it comes to for the chosen backbone."""
    from mmlop import config
    from mmlop.data import datasets

    params = config.load()
    for dataset in params.datasets:
        datasets.get(dataset, params.sources)
    if as_json:
        _print_json(params.resolved() | {"datasets": list(params.datasets)})
        return
    rows = [[f"{section}.{key}", str(value)] for section, keys in params.resolved().items() for key, value in keys.items()]
    _table("params.yaml is valid; it comes to", ["key", "value"], rows)


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
        _print_json([version.as_dict() for version in found])
        return
    rows = [[v.name, str(v.version), ", ".join(v.aliases), _metrics(v.metrics), v.created] for v in found]
    _table("Registered adapters", ["name", "version", "aliases", "metrics %", "created"], rows)


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
        _print_json(info)
        return
    _table(uri, ["key", "value"], [[key, _short(value)] for key, value in _flat(info)])


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


def _count(dataset: DataSet) -> int | None:
    """The number of classes; None for a folder of one's own that is not there now."""
    try:
        return len(dataset.classes())
    except MmlopError:
        return None


def _configured(dataset: str) -> None:
    """Raise MmlopError unless params.yaml lists the data set."""
    from mmlop import config
    from mmlop.data import datasets

    params = config.load()
    datasets.get(dataset, params.sources)
    if dataset not in params.datasets:
        raise MmlopError(f"'{dataset}' is not among `datasets` in params.yaml: add it there first.")


def _dvc(*arguments: str, quiet: bool = False) -> None:
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


def _prediction_line(path: Path, found: Prediction, top: int, as_json: bool) -> str:
    pairs = list(zip(found.labels, found.scores, strict=True))[:top]
    if as_json:
        return json.dumps({"path": str(path), "labels": [{"label": label, "score": score} for label, score in pairs]})
    return f"{path}\t" + "\t".join(f"{label} {100 * score:.1f}%" for label, score in pairs)


def _table(title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


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
