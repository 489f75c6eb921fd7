"""Deployments on a Prefect server: a scheduled retraining of each data set, looking for drift where that is scheduled, and
what keeps watch over their runs.

When comes from params.yaml, how and where from prefect.yaml. Everything may be deployed again and again: what is there is
brought up to date, and deployments of data sets that are gone are removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import prefect
import yaml
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, FlowFilter
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from mmlop import config, schedules
from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.schedules import Retrain
from mmlop.store import shown
from pipelines import automations
from pipelines.turns import DEFAULT_SLOT, SLOT

FLOW, DRIFT, TAG = automations.RETRAIN, automations.DRIFT, "mmlop"
LOOKS = "Compares pictures that a service was sent with validation pictures."
ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(automations.HEARTBEAT),
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "mmlop,pipelines",
}


@contextmanager
def reachable() -> Iterator[None]:
    """Raises MmlopError if there is no Prefect server, in the environment or Prefect's profile, or if it does not answer,
    now or in the block."""
    url = PREFECT_API_URL.value()
    if not url:
        raise MmlopError(
            "Schedules need a Prefect server: start one with `prefect server start`, and set PREFECT_API_URL to its "
            "address, http://127.0.0.1:4200/api as a rule."
        )

    def away(error: Exception) -> MmlopError:
        return MmlopError(f"The Prefect server at {shown(str(url))} does not answer as it should ({error}): is it running?")

    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)  # asks for a password too, where the server has one
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
        raise away(error) from error
    try:
        yield
    except (httpx.TransportError, httpx.HTTPStatusError) as error:
        raise away(error) from error


def schedule(settings: Retrain, dataset: str) -> Schedule | None:
    """When a data set is retrained."""
    return timed(settings.of(dataset), settings.timezone)


def timed(text: str | None, timezone: str) -> Schedule | None:
    """Intervals count from a fixed day, so that deploying again does not move the runs."""
    if text is None:
        return None
    if every := schedules.interval(text):
        return Interval(every, anchor_date=datetime(2024, 1, 1, tzinfo=UTC), timezone="UTC")
    return Cron(text, timezone=timezone)


def pattern(root: Path) -> dict[str, Any]:
    """prefect.yaml, checked to hold one deployment. Raises MmlopError."""
    file = root / "prefect.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        if len(found["deployments"]) != 1:
            raise ValueError("its deployments are not one pattern")
        _ = found["deployments"][0]["work_pool"]["name"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise MmlopError(f"{file} cannot be deployed ({error!r}): take it from the project's repository again.") from error
    return dict(found)


def deployments(root: Path, params: Params) -> dict[str, Any]:
    """prefect.yaml with a deployment for each data set in place of the pattern, and one that looks for its drift if
    `drift.schedule` says when."""
    found = pattern(root)
    one = found["deployments"][0]
    pool = one["work_pool"]
    given = pool.get("job_variables") or {}
    variables = given | {"env": ENVIRONMENT | {SLOT: DEFAULT_SLOT} | (given.get("env") or {})}
    retrained = [
        one
        | {
            "name": dataset,
            "parameters": {"dataset": dataset},
            "schedules": _as_yaml(schedule(params.retrain, dataset)),
            "tags": sorted({TAG, dataset, *(one.get("tags") or [])}),
            "work_pool": pool | {"job_variables": variables},
        }
        for dataset in params.datasets
    ]
    looks = {"entrypoint": f"pipelines/drift.py:{DRIFT}", "description": LOOKS}
    when = _as_yaml(timed(params.drift.schedule, params.retrain.timezone))
    found["deployments"] = retrained + [one | looks | {"schedules": when} for one in retrained if when]
    return found


def _flow_of(deployment: dict[str, Any]) -> str:
    """The name of its flow, which is that of the function too."""
    return str(deployment["entrypoint"]).rpartition(":")[2]


def deploy(root: Path, params: Params) -> list[str]:
    """Register everything at the Prefect server; a line for each thing done. Raises MmlopError."""
    wanted = deployments(root, params)
    done = prepare(params)
    _ensure_pool(wanted["deployments"][0]["work_pool"]["name"])
    with tempfile.TemporaryDirectory(prefix="mmlop-") as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
        _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(file), cwd=root)
    return done + [f"deployed {_flow_of(one)}/{one['name']}, {_when(params, one)}" for one in wanted["deployments"]]


def prepare(params: Params) -> list[str]:
    """The concurrency limit and the automations, made or brought up to date; deployments of what is gone from params.yaml,
    removed. A line for each thing done."""
    _ensure_limit(DEFAULT_SLOT, params.retrain.slots)
    done = [f"limit {DEFAULT_SLOT}: {params.retrain.slots} training(s) at once"]
    done += automations.deploy(params.retrain.restarts)
    return done + [f"removed {name}, which params.yaml does not ask for" for name in _remove_others(params)]


def _ensure_limit(name: str, slots: int) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
        else:
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))


def _ensure_pool(name: str) -> None:
    """A pool for processes, where none of that name is there; pools of other kinds are made by whoever needs them."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))


def _deployed(client: Any, flow: str) -> list[Any]:
    return list(
        client.read_deployments(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [flow]}}),
            deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [TAG]}}),
        )
    )


def _remove_others(params: Params) -> list[str]:
    wanted = {FLOW: params.datasets, DRIFT: params.datasets if params.drift.schedule else ()}
    removed = []
    with get_client(sync_client=True) as client:
        for flow, names in wanted.items():
            for one in _deployed(client, flow):
                if one.name not in names:
                    client.delete_deployment(one.id)
                    removed.append(f"{flow}/{one.name}")
    return removed


def _remove_those_of_pools() -> None:
    """A deployment that was made for a work pool does not learn where the code is when it is served instead."""
    with get_client(sync_client=True) as client:
        for one in _deployed(client, FLOW) + _deployed(client, DRIFT):
            if one.work_pool_name is not None:
                client.delete_deployment(one.id)


def _as_yaml(schedule: Schedule | None) -> list[dict[str, Any]]:
    """As prefect.yaml writes it."""
    if schedule is None:
        return []
    if schedule.interval is None:
        return [{"cron": schedule.cron, "timezone": schedule.timezone}]
    anchor = schedule.anchor_date.isoformat()
    return [{"interval": schedule.interval.total_seconds(), "anchor_date": anchor, "timezone": schedule.timezone}]


def _when(params: Params, deployment: dict[str, Any]) -> str:
    drift = _flow_of(deployment) == DRIFT
    text = params.drift.schedule if drift else params.retrain.of(deployment["name"])
    if text is None:
        return "by hand only"
    return f"every {text}" if schedules.interval(text) else f"at {text} ({params.retrain.timezone})"


def _prefect(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise MmlopError(f"`prefect {' '.join(arguments)}` failed: {' '.join(done.stdout.split()[-60:])}")


def serve(root: Path, params: Params) -> None:
    """Run the schedules in this process until it is interrupted, which pauses them. Nobody else may work them off."""
    wanted = deployments(root, params)["deployments"]
    os.chdir(root)
    os.environ.update(wanted[0]["work_pool"]["job_variables"]["env"] | config.this_python())
    from pipelines.drift import drift
    from pipelines.retrain import retrain

    flows: dict[str, Any] = {FLOW: retrain, DRIFT: drift}
    times = {DRIFT: {name: timed(params.drift.schedule, params.retrain.timezone) for name in params.datasets}}
    times[FLOW] = {name: schedule(params.retrain, name) for name in params.datasets}
    served: list[Any] = [
        flows[_flow_of(one)].to_deployment(
            name=one["name"],
            parameters=one["parameters"],
            schedules=[found] if (found := times[_flow_of(one)][one["name"]]) else [],
            tags=one["tags"],
            concurrency_limit=ConcurrencyLimitConfig.model_validate(one.get("concurrency_limit") or {"limit": 1}),
            description=one.get("description"),
        )
        for one in wanted
    ]
    _remove_those_of_pools()
    prefect.serve(*served, limit=params.retrain.slots)
