"""How everything stands: schedules and their last runs, champions, what is up to date, what lies on the disk.

Each part is asked on its own, and one that does not answer is a sentence in its place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from mmlop import config, store, versions
from mmlop.errors import MmlopError

T = TypeVar("T")

FLOW, TAG = "retrain", "mmlop"  # as `mmlop deploy` names them
PATIENCE = 5.0  # seconds until a server that does not answer counts as down
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))  # of intervals, as params.yaml writes them
KEPT = ("data", "runs", "transfer", ".dvc/cache", ".mmlop", "mlflow.db", "mlartifacts")


@dataclass(frozen=True)
class Part(Generic[T]):
    found: tuple[T, ...] = ()
    problem: str | None = None  # a sentence; what was found is then nothing


@dataclass(frozen=True)
class Deployment:
    dataset: str
    schedule: str | None  # None: only by hand
    paused: bool
    ready: bool  # somebody asks for its runs: a worker, or `mmlop deploy --serve`
    state: str | None = None  # of the last run; None: there was none yet
    state_at: datetime | None = None
    seconds: float | None = None
    next_run: datetime | None = None  # in the past: it is due and waits


@dataclass(frozen=True)
class Worker:
    name: str
    online: bool
    seen: datetime | None


@dataclass(frozen=True)
class Champion:
    dataset: str
    version: int | None  # None: no version is champion
    created: datetime | None
    metrics: dict[str, float]
    versions: int
    retrained: datetime | None  # None: never by a schedule
    outcome: str | None


@dataclass(frozen=True)
class Dataset:
    name: str
    state: Literal["up to date", "changed", "not trained"]


@dataclass(frozen=True)
class Folder:
    path: str
    bytes: int


@dataclass(frozen=True)
class Status:
    project: str
    prefect: str | None  # None: no server is configured
    mlflow: str
    deployments: Part[Deployment]
    workers: Part[Worker]
    champions: Part[Champion]
    datasets: Part[Dataset]
    disk: tuple[Folder, ...]
    free: int  # bytes

    def as_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=datetime.isoformat))
        return plain


def read() -> Status:
    """Of the project around the current folder. Raises MmlopError outside a project or where params.yaml is invalid."""
    root, params = config.root(), config.load()
    with ThreadPoolExecutor(1) as aside:  # for DVC, which works in a process of its own
        datasets = aside.submit(_asked, lambda: _datasets(root, params.datasets))
        url = _prefect_url()
        deployments, workers = _prefect(url)
        champions = _asked(_champions)
        return Status(
            project=str(root),
            prefect=store.shown(url) if url else None,
            mlflow=store.shown(store.tracking_uri()),
            deployments=deployments,
            workers=workers,
            champions=champions,
            datasets=datasets.result(),
            disk=tuple(_disk(root)),
            free=shutil.disk_usage(root).free,
        )


def _asked(question: Callable[[], Iterator[T]]) -> Part[T]:
    try:
        return Part(tuple(question()))
    except MmlopError as error:
        return Part(problem=str(error))


def _prefect_url() -> str | None:
    """As Prefect finds it: in the environment, its profile, or the project's settings."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    return str(url) if url else None


def _prefect(url: str | None) -> tuple[Part[Deployment], Part[Worker]]:
    if url is None:
        start = "`prefect server start`, then PREFECT_API_URL with its address."
        return Part(problem=f"none without a Prefect server: {start}"), Part()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True, httpx_settings={"timeout": PATIENCE}) as client:
            found = _found(client)
            pools = sorted({one.work_pool_name for one in found if one.work_pool_name})
            return Part(tuple(_deployment(client, one) for one in found)), Part(tuple(_workers(client, pools)))
    except (httpx.HTTPError, httpx.InvalidURL, PrefectException, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        why = lines[0].rstrip(".") if lines else type(error).__name__
        return Part(problem=f"Prefect at {store.shown(url)} does not answer as it should ({why})."), Part()


def _found(client: Any) -> list[Any]:
    """The deployments of retraining, as Prefect describes them."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter

    found = client.read_deployments(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
        deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [TAG]}}),
    )
    return sorted(found, key=lambda one: str(one.name))


def _deployment(client: Any, one: Any) -> Deployment:
    # Of a run that is started again, the time to come: when it was first expected is long ago.
    coming = _run_of(client, one.id, {"any_": ["SCHEDULED"]}, "NEXT_SCHEDULED_START_TIME_ASC")
    last = _run_of(client, one.id, {"not_any_": ["SCHEDULED"]}, "EXPECTED_START_TIME_DESC")
    return Deployment(
        dataset=str(one.name),
        schedule=", ".join(_schedule(one.schedule) for one in one.schedules) or None,
        paused=bool(one.paused or (one.schedules and not any(schedule.active for schedule in one.schedules))),
        ready=one.status == "READY",
        state=last and last.state_name,
        state_at=last and last.state.timestamp,
        seconds=last and last.total_run_time.total_seconds(),
        next_run=coming and coming.next_scheduled_start_time,
    )


def _run_of(client: Any, deployment: Any, states: dict[str, list[str]], order: str) -> Any:
    """The first run of a deployment in one of these types of states; None if there is none."""
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, "state": {"type": states}})
    return next(iter(client.read_flow_runs(flow_run_filter=wanted, sort=order, limit=1)), None)


def _schedule(schedule: Any) -> str:
    if (cron := getattr(schedule, "cron", None)) is not None:
        return f"{cron} {schedule.timezone or 'UTC'}"
    if (interval := getattr(schedule, "interval", None)) is not None:
        seconds = round(interval.total_seconds())
        length, unit = next((length, unit) for length, unit in UNITS if seconds % length == 0)
        return f"every {seconds // length}{unit}"
    return str(getattr(schedule, "rrule", schedule))


def _workers(client: Any, pools: list[str]) -> Iterator[Worker]:
    """Of the pools that runs are taken from: one as a rule, none with `mmlop deploy --serve`."""
    for pool in pools:
        for worker in sorted(client.read_workers_for_work_pool(pool), key=lambda worker: str(worker.name)):
            yield Worker(worker.name, worker.status == "ONLINE", worker.last_heartbeat_time)


def _champions() -> Iterator[Champion]:
    file = store.sqlite_file(store.tracking_uri())
    if file is not None and not file.is_file():  # looking should not make one
        return
    client = store.connect()
    with store.answering():
        for name in versions.names(client):
            tags, registered = client.get_registered_model(name).tags, versions.versions_of(client, name)
            champion = next((version for version in registered if "champion" in version.aliases), None)
            retrained = tags.get("mmlop.retrained_at")
            yield Champion(
                dataset=name.removeprefix(versions.model_name("")),
                version=champion.version if champion else None,
                created=datetime.fromisoformat(champion.created) if champion else None,
                metrics=champion.metrics if champion else {},
                versions=len(registered),
                retrained=datetime.fromisoformat(retrained) if retrained else None,
                outcome=tags.get("mmlop.retrain_outcome"),
            )


def _datasets(root: Path, names: tuple[str, ...]) -> Iterator[Dataset]:
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(
            command, cwd=root, env=os.environ | config.this_python(), capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        raise MmlopError("DVC needs more than a minute to see what changed: ask it with `dvc status`.") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise MmlopError(f"DVC does not say what changed: {lines[0] if lines else 'no reason given'}")
    try:
        changed = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        raise MmlopError("DVC does not say what changed in words known here: ask it with `dvc status`.") from None
    for name in names:
        if not (root / "runs" / name / "run.json").is_file():
            yield Dataset(name, "not trained")
        else:
            touched = any(f"{stage}@{name}" in changed for stage in ("fetch", "split", "train"))
            yield Dataset(name, "changed" if touched else "up to date")


def _disk(root: Path) -> Iterator[Folder]:
    for name in KEPT:
        if os.path.exists(root / name):
            yield Folder(name, _size(root / name))
    if os.path.exists(kept := config.cache()):  # unlike Path.exists, False where it may not be looked at
        yield Folder(str(kept), _size(kept))


def _size(path: Path) -> int:
    """Of a file or of everything in a folder, in bytes; what vanishes meanwhile or may not be looked at counts nothing."""
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(map(_bytes, inside if os.path.isdir(path) else [os.path.realpath(path)]))


def _bytes(file: str) -> int:
    try:
        return os.lstat(file).st_size
    except OSError:
        return 0
