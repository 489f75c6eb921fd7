"""A grid of params.yaml: what of it is missing, its data fetched, and the rest measured by pipelines/grid_flow.py.

`mmlop benchmark GRID`, or `python -m pipelines.benchmark GRID`. What is on disk under the same key is not measured again.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlop import cache, config
from mmlop.config import Params
from mmlop.data import datasets, public
from mmlop.errors import MmlopError
from mmlop.files import dump_json, write_json
from mmlop.grids import forecast, inputs, measuring, points
from mmlop.grids.forecast import Expected
from mmlop.grids.points import Plan, Point
from mmlop.grids.tracking import log_all
from pipelines import server, turns, workspace
from pipelines.processes import ended_with_us

logger = logging.getLogger(__name__)

# What draws the rendered data sets.
PAINTING = tuple(
    f"data/mini/{name}.py"
    for name in ("benchmark", "cues", "looks", "objects", "painters", "surfaces", "variants", "world")
)


@dataclass(frozen=True)
class Planned:
    """A grid before it is run."""

    plan: Plan
    pending: tuple[tuple[Point, str], ...]  # what is not measured yet, as far as can be told before data are fetched
    workers: int


def planned(name: str, params: Params, workers: int | None = None, checked: bool = True) -> Planned:
    """What there is to do. With ``checked``, backbones are loaded to see whether the points fit into them; without, only
    those that are on this machine.

    Raises MmlopError for an unknown grid, data set or key, for a cluster, and with ``checked`` for a backbone or a device
    that cannot be used.
    """
    if params.run.runner == "dask" and workers is None:
        raise MmlopError(
            "run.runner is dask, but grids are measured on this machine: set it to threads or processes, or say how many "
            "processes with --workers."
        )
    plan = inputs.fitting(points.plan(name, params), checked)
    return Planned(plan, measuring.pending(config.root(), plan), workers or params.run.concurrency)


def run(found: Planned, params: Params, agree: Callable[[Expected], None]) -> None:
    """Fetch the data, measure what is not measured yet, and log it to MLflow. ``agree`` is told beforehand what to expect,
    and raises MmlopError where that is too much.

    Raises MmlopError where no point is possible, and with a sentence for each point and data set that failed, after all
    others have been measured.
    """
    root, plan = config.root(), found.plan
    if not plan.points:
        raise MmlopError(f"None of the {len(plan.refused)} points of grid {plan.name} is possible: {plan.refused[0].why}")
    with turns.alone(root / ".mmlop" / f"benchmark-{plan.name}.lock", f"run of the grid {plan.name}"):
        if found.pending:
            agree(forecast.expected(root, plan, params, found.pending, found.workers))
        fetch(root, plan, params)
        if not measuring.missing(root, plan):
            log_all(root, plan)
            return
        with server.running():
            _measured(plan.name, found.workers)


def _measured(grid: str, workers: int) -> None:
    """The flow, in a process that knows the Prefect server from its start, as Prefect reads its settings once. What ends
    this process ends that one too, and loses only what is being measured. Raises MmlopError with what failed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.grid_flow", grid, str(workers)],
        cwd=config.root(),
        stdin=subprocess.PIPE,  # which it sees the end of
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that it can be ended together with its workers
    )
    assert process.stdout is not None
    with ended_with_us(process):
        said = process.stdout.read().strip()
        process.wait()
    if process.returncode:
        raise MmlopError(said or f"The process that measures ended with code {process.returncode}: run the same again.")


# ---- data ----


def fetch(root: Path, plan: Plan, params: Params) -> None:
    """What is not there of the data sets. Those that params.yaml lists are DVC's, which also sees what changed."""
    stages = dict.fromkeys(params.datasets, "fetch") | dict.fromkeys(params.test_sets, "fetch_test")
    if listed := [f"{stages[name]}@{name}" for name in plan.datasets if name in stages]:
        workspace.repro(*listed)
    for name in plan.datasets:
        if name not in stages and _wanted(root, name, params):
            logger.info("%s: fetching", name)
            datasets.fetch(datasets.get(name, params), root / "data" / name)
            write_json(_note(root, name), _settings(params))
    inputs.forget()


def _wanted(root: Path, name: str, params: Params) -> bool:
    """Whether a data set outside the pipeline has to be fetched: it is not there, or may be another one by now."""
    if not (root / "data" / name / "manifest.json").exists() or name in params.sources:
        return True
    if name in public.SPECS:
        return inputs.fetched(root, name).manifest.split == "own" and name not in params.data.own_split
    note = _note(root, name)
    return not note.exists() or note.read_text(encoding="utf-8") != dump_json(_settings(params))


def _note(root: Path, name: str) -> Path:
    return root / ".mmlop" / "fetched" / f"{name}.json"


def _settings(params: Params) -> dict[str, Any]:
    """What a rendered data set is made by."""
    return {"data": params.data.model_dump(mode="json"), "code": cache.sources(*PAINTING)}


# ---- a word before it starts ----


def agreement(yes: bool) -> Callable[[Expected], None]:
    """Says what a grid is expected to take, and asks before a long one, unless ``yes``."""

    def agree(expected: Expected) -> None:
        print(f"Expected: {expected}.", file=sys.stderr)
        if yes or not expected.much:
            return
        if not sys.stdin.isatty():
            raise MmlopError(f"That is much, and nobody is here to be asked: say --yes to start it ({expected}).")
        print("Start it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise MmlopError("Nothing was started.")

    return agree
