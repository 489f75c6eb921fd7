"""The command `mmlop benchmark`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmlop.cli_output import AsJson, print_json, show_table
from mmlop.errors import MmlopError

if TYPE_CHECKING:
    from pathlib import Path

    from mmlop.config import Params
    from mmlop.grids.comparison import Interval
    from mmlop.grids.points import Plan
    from pipelines.grid import Planned

COLUMNS = {"base": "base", "novel": "novel", "hm": "HM", "accuracy": "accuracy"}


def benchmark(
    grid: Annotated[str | None, typer.Argument(help="One of `grids` in params.yaml. [default: list them]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what there is to do, and do nothing.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that measure at once. [default: run.concurrency]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start it however long it is expected to take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure methods and settings against one another on several data sets, as a grid in params.yaml says.

    What was measured before with the same settings, data and code is not measured again: a run that was stopped goes on.
    """
    from mmlop import config

    params = config.load()
    if grid is None:
        _list(params, as_json)
        return
    from pipelines import grid as grids
    from pipelines import stage

    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[stage.Stderr()], force=True)
    logging.getLogger("pipelines.grid").setLevel("INFO")
    found = grids.planned(grid, params, workers, checked=not dry_run)
    if dry_run and as_json:
        print_json(_plan_json(found))
        return
    if not as_json:
        _show_plan(found)
    if dry_run:
        return
    trouble = None
    try:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):  # DVC says what it does
            grids.run(found, params, grids.agreement(yes))
    except MmlopError as error:  # what was measured all the same is shown first
        trouble = error
    _show_results(found.plan, as_json)
    if trouble is not None:
        raise trouble


def _list(params: Params, as_json: bool) -> None:
    from mmlop import config
    from mmlop.grids import measuring

    if not params.grids:
        raise MmlopError("params.yaml has no `grids`: docs/benchmark.md shows how to write one.")
    known = measuring.measured(config.root())
    listed = [_listed(name, params, known) for name in params.grids]
    if as_json:
        print_json(listed)
        return
    columns = ("name", "points", "refused", "datasets", "seeds", "missing")
    rows = [[*(str(one.get(column, "")) for column in columns), one.get("error", one["about"])] for one in listed]
    header = ["name", "points", "not possible", "data sets", "seeds", "not measured", "what it shows"]
    show_table("Grids", header, rows)
    typer.echo("`mmlop benchmark NAME` measures what is missing; with --dry-run it says what that is.")


def _listed(name: str, params: Params, known: Mapping[str, Path]) -> dict[str, Any]:
    """What is to be said of a grid; of one that cannot be, its error."""
    from mmlop import config
    from mmlop.grids import inputs, measuring, points

    try:
        plan = inputs.fitting(points.plan(name, params), checked=False)
        missing = measuring.pending(config.root(), plan, known)
    except MmlopError as error:
        return {"name": name, "about": params.grids[name].about, "error": str(error)}
    return {
        "name": name,
        "about": plan.about,
        "points": len(plan.points),
        "refused": len(plan.refused),
        "datasets": len(plan.datasets),
        "seeds": len(plan.seeds),
        "missing": len(missing),
    }


def _plan_json(found: Planned) -> dict[str, Any]:
    plan = found.plan
    pending: dict[str, list[str]] = {}
    for point, dataset in found.pending:
        pending.setdefault(point.label, []).append(dataset)
    return {
        "grid": plan.name,
        "datasets": list(plan.datasets),
        "seeds": list(plan.seeds),
        "points": [
            {"point": point.label, "overrides": point.overrides, "missing": pending.get(point.label, [])}
            for point in plan.points
        ],
        "refused": [{"point": one.label, "overrides": one.overrides, "why": one.why} for one in plan.refused],
        "workers": found.workers,
    }


def _show_plan(found: Planned) -> None:
    plan, missing = found.plan, [point.label for point, _ in found.pending]
    rows = [
        [
            point.label,
            ", ".join(f"{key}={value}" for key, value in point.overrides.items()),
            f"{len(plan.datasets) - missing.count(point.label)} of {len(plan.datasets)}",
        ]
        for point in plan.points
    ]
    rows += [[one.label, one.why, "not measured"] for one in plan.refused]
    seeds = ", ".join(map(str, plan.seeds))
    show_table(f"{plan.name}: {len(plan.points)} points, seeds {seeds}", ["point", "what it sets", "measured"], rows)
    typer.echo(f"data sets: {', '.join(plan.datasets)}")


def _show_results(plan: Plan, as_json: bool) -> None:
    """The means over data sets by every protocol, and where to find more."""
    from mmlop import config
    from mmlop.grids import comparison, current, measurements
    from mmlop.protocols import BASE_TO_NOVEL, FEW_SHOT

    folder = config.root() / measurements.FOLDER / plan.name
    now = current.read(config.root(), plan)
    found, note = now.measurements, now.note(plan.name)
    if not found and not note:
        return
    means = {name: comparison.means(found, name) for name in (BASE_TO_NOVEL, FEW_SHOT)}
    means = {name: points for name, points in means.items() if points}
    beside = _beside_published(plan, comparison.common(found).datasets, means.get(BASE_TO_NOVEL, {}))
    if as_json:
        known = {"means": _means_json(means), "published": beside, "stale": now.stale}
        print_json({"grid": plan.name, "folder": str(folder)} | known)
        return
    for name, points in means.items():
        shared = comparison.common(found, name)
        columns = [metric for metric in COLUMNS if any(metric in metrics for metrics in points.values())]
        rows = [
            [point, *(_cell(metrics[metric]) if metric in metrics else "" for metric in columns)]
            for point, metrics in points.items()
        ]
        title = f"{plan.name}, {name}: means over {len(shared.datasets)} data sets, ± over {len(shared.seeds)} seeds"
        show_table(title, ["point", *(COLUMNS[metric] for metric in columns)], rows)
    for line in (*beside, *([note] if note else [])):
        typer.echo(line)
    typer.echo(f"files: {folder}; `mmlop report` shows them")


def _cell(one: Interval) -> str:
    return f"{one.mean:.1f}" if one.std is None else f"{one.mean:.1f} ± {one.std:.1f}"


def _means_json(means: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> dict[str, Any]:
    return {
        name: {
            point: {metric: {"mean": one.mean, "std": one.std} for metric, one in metrics.items()}
            for point, metrics in points.items()
        }
        for name, points in means.items()
    }


def _beside_published(plan: Plan, shared: Sequence[str], means: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """For each method at its own settings that has been measured on the eleven data sets of papers: how far it is from the
    published mean."""
    from mmlop import published
    from mmlop.data.public import SPECS

    eleven = {name for name, spec in SPECS.items() if spec.variant_of is None}
    said = []
    for point in plan.points if set(shared) == eleven else ():
        ours, theirs = means.get(point.label, {}).get("hm"), published.load().averages.get(point.params.method)
        if ours and theirs and point.overrides.keys() <= {"method"}:
            said.append(
                f"{point.label}: mean HM {ours.mean:.2f} with {point.params.profile.architecture} and "
                f"{point.params.fewshot.shots} shots; published for ViT-B/16 and 16 shots {theirs.hm:.2f} "
                f"({theirs.citation}): {ours.mean - theirs.hm:+.2f}"
            )
    return said
