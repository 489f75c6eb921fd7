"""Where MLflow has the runs behind a report; the report is made without it where it cannot be reached."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmlop import store
from mmlop.errors import MmlopError
from mmlop.grids import tracking
from mmlop.page import grids
from mmlop.page.naming import titled
from mmlop.page.section import Link, Section
from mmlop.tables import Table

logger = logging.getLogger(__name__)


def section(root: Path, datasets: Sequence[str], measured: grids.Grids) -> Section | None:
    """The runs of trained data sets and of grids; None where none is known, or nobody can be asked."""
    try:
        if (client := _client()) is None:
            return None
        tables = [*_of_pipeline(client, root, datasets), *_of_grids(client, measured)]
    except MmlopError as error:
        logger.warning("The report is without links to MLflow: %s", error)
        return None
    if not tables:
        return None
    note = "Runs in MLflow, with parameters, curves and files."
    if _address() is None:
        note += " Its UI finds them by these ids: `DO_NOT_TRACK=true mlflow ui --backend-store-uri sqlite:///mlflow.db`."
    return Section("Runs", (note,), tables=tuple(tables), twin=False)


def _of_pipeline(client: Any, root: Path, datasets: Sequence[str]) -> Iterator[Table]:
    found = {dataset: run for dataset in datasets if (run := _run(client, root, dataset))}
    if rows := tuple((dataset, _link(run, experiment)) for dataset, (run, experiment) in found.items()):
        yield Table("Trained by the pipeline", (("", "run"),), rows)


def _of_grids(client: Any, measured: grids.Grids) -> Iterator[Table]:
    for name, (found, _) in measured.items():
        experiment, logged = tracking.runs(client, name)
        runs = {(one.point, one.dataset): logged[one.key] for one in found if one.key in logged}
        points = dict.fromkeys(point for point, _ in runs)
        datasets = sorted({dataset for _, dataset in runs})
        rows = tuple(
            (titled(p), *(_link(runs[p, d], experiment) if (p, d) in runs else "" for d in datasets)) for p in points
        )
        if rows:
            yield Table(f"Grid {name}", tuple(("", dataset) for dataset in datasets), rows, "point")


def _link(run: str, experiment: str) -> Any:
    """The run's page in MLflow's UI, where that has an address; else its id."""
    address = _address()
    if address is None:
        return run
    return Link(run[:8], f"{address}/#/experiments/{experiment}/runs/{run}")


def _address() -> str | None:
    uri = store.shown(store.tracking_uri()).rstrip("/") if "MLFLOW_TRACKING_URI" in os.environ else ""
    return uri if uri.startswith(("http://", "https://")) else None


def _client() -> Any:
    """None where there is no store yet. Raises MmlopError for one that does not answer."""
    file = store.sqlite_file(store.tracking_uri())
    return None if file and not file.is_file() else store.connect()


def _run(client: Any, root: Path, dataset: str) -> tuple[str, str] | None:
    """Run and experiment that hold what is in runs/<dataset>; they are tagged with the hash of run.json."""
    file = root / "runs" / dataset / "run.json"
    if not file.is_file():
        return None
    key = hashlib.sha256(file.read_bytes()).hexdigest()
    with store.answering():
        if (experiment := client.get_experiment_by_name(f"mmlop-{dataset}")) is None:
            return None
        found = client.search_runs([experiment.experiment_id], f"tags.`mmlop.run` = '{key}'", max_results=1)
    return (str(found[0].info.run_id), str(experiment.experiment_id)) if found else None
