"""`mmlop registry`: registered adapters, from the first champion to the rollback of the last one."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmlop.cli_output import AsJson, Dataset, Device, Quiet, print_json, show_table
from mmlop.cli_status import size, when

if TYPE_CHECKING:
    from mmlop.champion import Decision
    from mmlop.facts import Facts, Pair
    from mmlop.ledger import Entry

app = typer.Typer(
    help="Registered adapters: list, show, compare, promote, roll back, verify, sync.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Uri = Annotated[
    str, typer.Argument(help="models:/mmlop-NAME@champion, models:/mmlop-NAME/1, runs:/ID/adapter or a folder.")
]
Some = Annotated[str | None, typer.Argument(help="One data set only.")]


@app.command("list")
def list_(dataset: Some = None, as_json: AsJson = False) -> None:
    """Registered adapters with their aliases, accuracy and size."""
    from mmlop import registry

    found = registry.versions(dataset)
    if as_json:
        print_json([version.as_dict() for version in found])
        return
    rows = [[v.name, str(v.version), ", ".join(v.aliases), _metrics(v.metrics), size(v.size), v.created] for v in found]
    show_table("Registered adapters", ["name", "version", "aliases", "metrics %", "size", "created"], rows)


@app.command()
def show(uri: Uri, as_json: AsJson = False) -> None:
    """One adapter: what it reached, where it comes from, and how it was decided on."""
    from mmlop import facts
    from mmlop.verification import leaves

    found = facts.of(uri)
    if as_json:
        print_json(found.as_dict())
        return
    title = uri
    if found.version is not None:
        aliases = ", ".join(found.version.aliases)
        title = f"{found.version.name} version {found.version.version}{f' ({aliases})' if aliases else ''}"
    _show(title, _outline(found))
    _show("Metrics, in percent", _measured(found))
    _show("Lineage", found.lineage)
    _show("Decision", _decided(found))
    _show("As champion", {f"{entry.number}. {entry.at}": _change(entry, found) for entry in found.history})
    info = found.info.model_dump(mode="json")
    show_table("adapter.json", ["key", "value"], [[key, _short(value)] for key, value in leaves(info).items()])


@app.command()
def compare(one: Uri, other: Uri, device: Device = "cpu", as_json: AsJson = False) -> None:
    """Two adapters side by side, and whether the second is better on validation pictures neither was trained on."""
    from mmlop import config, facts

    pair = facts.compare(facts.of(one), facts.of(other), config.root(), device)
    if as_json:
        print_json(pair.as_dict())
        return
    show_table("Side by side", ["", one, other], _beside(pair))
    if differing := [[key, *map(_short, both)] for key, both in {**pair.data, **pair.params}.items()]:
        show_table("What differs in data and params", ["", one, other], differing)
    if pair.test is not None:
        rows = [
            [c.name, str(c.pictures), f"{c.champion:.1f}", f"{c.challenger:.1f}", f"{c.challenger - c.champion:+.1f}"]
            for c in sorted(pair.test.classes, key=lambda c: c.challenger - c.champion)
        ]
        show_table("Class by class, in percent of pictures", ["class", "pictures", one, other, "change"], rows)
    typer.echo(pair.sentence)


@app.command()
def promote(
    dataset: Dataset,
    version: Annotated[int, typer.Argument(min=1, help="The version that should become champion.")],
    force: Annotated[str | None, typer.Option(metavar="REASON", help="Decide by hand; the reason is stored.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a version challenge the champion; it takes over if it is better on validation pictures."""
    from mmlop import config, registry

    params = config.load()
    decision = registry.promote(dataset, version, params.champion, force, device=params.device)
    _show_decision(decision, as_json)
    if decision.outcome in ("too_few", "not_compared"):
        raise typer.Exit(1)


@app.command()
def rollback(
    dataset: Dataset,
    reason: Annotated[str, typer.Option(help="Why; it is stored.")],
    to: Annotated[int | None, typer.Option(min=1, metavar="VERSION", help="An earlier champion, not @previous.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again; the present one is the previous one then."""
    from mmlop import registry

    _show_decision(registry.rollback(dataset, reason, to), as_json)


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(help="mmlop-NAME@champion or mmlop-NAME/1, with or without models:/ before it.")],
    as_json: AsJson = False,
) -> None:
    """Train a registered adapter again at its recorded commit, and say whether the same bits come out.

    Exit code 0: the same; 1: others; 2: it cannot be trained again.
    """
    from pipelines import verify as verifying

    found = verifying.verify(uri)
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo(found.sentence)
    raise typer.Exit(found.exit_code)


@app.command()
def sync(dataset: Some = None, quiet: Quiet = False) -> None:
    """Log and register what is on disk in runs/ and not yet in MLflow (after an outage, `dvc pull`, a lost database)."""
    from mmlop import config, registry

    for published in registry.sync(config.root(), dataset):
        if not quiet:
            typer.echo(published.sentence)


def _show_decision(decision: Decision, as_json: bool) -> None:
    if as_json:
        print_json(asdict(decision))
    else:
        typer.echo(decision.reason)


def _show(title: str, values: dict[str, str]) -> None:
    """A title with values below it, one a line; nothing where there are none."""
    if values:
        width = max(map(len, values))
        typer.echo("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in values.items()), ""]))


def _outline(found: Facts) -> dict[str, str]:
    info = found.info
    outline = {
        "data set": f"{info.origin.dataset}, {len(info.classes)} classes",
        "method": f"{info.method}, {info.shape.trainable} trained numbers, {size(found.size)}",
        "backbone": f"{info.backbone.name} ({info.backbone.weights})",
    }
    if found.version is None:
        return outline | {"registered": "no"}
    return outline | {"registered": f"{found.version.created} ({when(datetime.fromisoformat(found.version.created))})"}


def _measured(found: Facts) -> dict[str, str]:
    pictures, rows = found.info.pictures, {}
    for name, value in sorted(found.info.metrics.items()):
        rows[name] = f"{value:.2f}" + (f" on {pictures[name]} pictures" if name in pictures else "")
    for name, one in found.info.report.items():
        rows[f"{name}, trained on half of the classes"] = f"{one.mean:.2f} ± {one.std:.2f} over {one.seeds} seeds"
    return rows


def _decided(found: Facts) -> dict[str, str]:
    names = {
        "outcome": "decision",
        "reason": "reason",
        "by hand": "forced",
        "against version": "compared_with",
        "p-value": "p_value",
        "pictures": "pictures",
    }
    return {shown: found.tags[f"mmlop.{tag}"] for shown, tag in names.items() if f"mmlop.{tag}" in found.tags}


def _change(entry: Entry, found: Facts) -> str:
    if found.version is None or entry.new != found.version.version:
        return entry.reason
    replaced = "" if entry.old is None else f" in place of version {entry.old}"
    return f"champion{replaced} ({entry.outcome.replace('_', ' ')})"


def _beside(pair: Pair) -> list[list[str]]:
    both = (pair.one, pair.other)
    metrics = sorted({name for one in both for name in one.info.metrics})
    rows = [
        ["method", *(one.info.method for one in both)],
        ["trained numbers", *(str(one.info.shape.trainable) for one in both)],
        ["size", *(size(one.size) for one in both)],
        ["registered", *(one.version.created if one.version else "no" for one in both)],
        ["aliases", *(", ".join(one.version.aliases) if one.version else "" for one in both)],
    ]
    for name in metrics:
        rows.append([f"{name} %", *(f"{one.info.metrics[name]:.2f}" if name in one.info.metrics else "" for one in both)])
    return rows


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in sorted(metrics.items()))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
