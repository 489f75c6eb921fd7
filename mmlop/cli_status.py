"""The command `mmlop status`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import typer

from mmlop.cli_output import AsJson, print_json, show_table

if TYPE_CHECKING:
    from mmlop.status import Champion, Deployment, Status

SHOWN = ("accuracy", "accuracy_estimate")  # of an adapter's metrics


def status(as_json: AsJson = False) -> None:
    """How everything stands: data sets and champions, schedules and their last runs, workers, disk.

    A server that does not answer is a sentence in its place, and no failure.
    """
    from mmlop import status as statuses

    found = statuses.read()
    if as_json:
        print_json(found.as_dict())
        return
    _show_datasets(found)
    typer.echo()
    _show_schedules(found)
    typer.echo()
    sizes = ", ".join(f"{folder.path} {size(folder.bytes)}" for folder in found.disk)
    typer.echo(f"Disk: {sizes or 'nothing yet'}; {size(found.free)} free")


def _show_datasets(found: Status) -> None:
    states = {one.name: one.state for one in found.datasets.found}
    champions = {one.dataset: one for one in found.champions.found}
    rows = [
        [name, states.get(name, ""), *_champion_cells(champions.get(name))]
        for name in [*states, *(name for name in champions if name not in states)]
    ]
    show_table(
        f"Data sets, champions in {found.mlflow}",
        ["data set", "results", "champion", "registered", "metrics %", "versions", "last retraining"],
        rows,
    )
    for problem in (found.datasets.problem, found.champions.problem):
        if problem:
            typer.echo(problem)


def _champion_cells(champion: Champion | None) -> list[str]:
    if champion is None:
        return ["none", "", "", "", ""]
    metrics = ", ".join(f"{name} {champion.metrics[name]:.1f}" for name in SHOWN if name in champion.metrics)
    retrained = f"{champion.outcome or 'ended'} {when(champion.retrained)}" if champion.retrained else ""
    version = f"version {champion.version}" if champion.version else "none"
    return [version, when(champion.created), metrics, str(champion.versions), retrained]


def _show_schedules(found: Status) -> None:
    if found.deployments.problem:
        typer.echo(f"Schedules: {found.deployments.problem}")
        return
    if not found.deployments.found:
        typer.echo(f"Schedules: none at {found.prefect}; `mmlop deploy` makes what `retrain` in params.yaml says.")
        return
    show_table(
        f"Retraining at {found.prefect}",
        ["data set", "schedule", "last run", "next run", "picked up"],
        [_deployment_cells(one) for one in found.deployments.found],
    )
    workers = [f"{one.name} {'online' if one.online else f'last seen {when(one.seen)}'}" for one in found.workers.found]
    typer.echo(f"Workers: {', '.join(workers) or 'none'}")


def _deployment_cells(one: Deployment) -> list[str]:
    last = "none yet"
    if one.state is not None:
        last = f"{one.state} {when(one.state_at)}" + (f", took {duration(one.seconds)}" if one.seconds else "")
    schedule = one.schedule or "by hand"
    return [
        one.dataset,
        f"{schedule} (paused)" if one.paused else schedule,
        last,
        f"due {moment}" if (moment := when(one.next_run)).endswith(" ago") else moment,
        "yes" if one.ready else "no: start `mmlop worker`",
    ]


def when(moment: datetime | None) -> str:
    """How long ago, or until then."""
    if moment is None:
        return ""
    away = (moment - datetime.now(UTC)).total_seconds()
    return f"in {duration(away)}" if away > 0 else f"{duration(-away)} ago"


def duration(seconds: float) -> str:
    """In its largest unit.

    >>> [duration(seconds) for seconds in (0.4, 75, 4000, 200_000)]
    ['0 s', '1 min', '1 h', '2 days']
    """
    for unit, length in (("days", timedelta(days=2)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if seconds >= length.total_seconds():
            return f"{seconds // (86400 if unit == 'days' else length.total_seconds()):.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes for people.

    >>> size(532), size(46_000), size(2_500_000_000)
    ('532 B', '46.0 kB', '2.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
