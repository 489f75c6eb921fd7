"""`mmlop status`: what it says of a Prefect server, an MLflow store and DVC, and of those that do not answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from make_run import make_run
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running, Scheduled

from mmlop import config, registry, store, tracking
from mmlop.cli_status import duration, size

pytest_plugins = ["clone_fixtures", "project_fixtures"]

STAGES = """
stages:
  train:
    matrix:
      dataset: [toy, other]
    cmd: mkdir -p runs/${item.dataset} && cp pictures runs/${item.dataset}/run.json
    deps: [pictures]
    outs: ["runs/${item.dataset}"]
"""


def status(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmlop.cli", "status", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(config.__file__).parents[1]), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_server}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployed(client: SyncPrefectClient) -> None:
    """A promoted run of `toy`, which has a schedule, and one that is due; `other` only by hand, running; a worker of a pool
    that prefect.yaml names; and somebody else's flow."""
    flow, others = (client.create_flow_from_name(name) for name in ("retrain", "report"))
    client.create_work_pool(WorkPoolCreate(name="bench", type="process"), overwrite=True)
    cron = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * *", timezone="Europe/Berlin"), active=True)
    rare = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(days=1)), active=True)
    tags = ["mmlop", "toy"]
    toy = client.create_deployment(flow, "toy", tags=tags, schedules=[cron], work_pool_name="bench")
    other = client.create_deployment(flow, "other", tags=["mmlop", "other"], paused=True, schedules=[rare])
    client.create_deployment(others, "weekly", tags=["mmlop"])
    for deployment, state in ((toy, Completed(name="Promoted")), (other, Running())):
        run = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, state, force=True)
    client.create_flow_run_from_deployment(toy, state=Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=2)))
    heartbeat = {"name": "bench-3", "heartbeat_interval_seconds": 30}
    client.request("POST", "/work_pools/bench/workers/heartbeat", json=heartbeat)


@pytest.fixture
def trained(project: Path, backbone: Path) -> Path:
    """`toy` with a champion that a schedule promoted, `other` not trained."""
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("[toy]", "[toy, other]"))
    registry.publish(make_run(project, "toy", backbone), tracking.lineage())
    client = store.connect()
    client.set_registered_model_tag("mmlop-toy", "mmlop.retrained_at", "2026-01-01T00:00:00+00:00")
    client.set_registered_model_tag("mmlop-toy", "mmlop.retrain_outcome", "promoted")
    return project


def test_all_of_it(trained: Path, deployed: None, prefect_server: str) -> None:
    done = status(trained, "--json", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    other, toy = found["deployments"]["found"]
    assert (toy["dataset"], toy["schedule"], toy["paused"], toy["state"]) == (
        *("toy", "0 3 * * * Europe/Berlin", False, "Promoted"),
    )
    assert toy["state_at"] is not None
    assert toy["seconds"] >= 0
    assert (other["dataset"], other["schedule"], other["paused"], other["state"]) == (
        "other",
        "every 1d",
        True,
        "Running",
    )
    (worker,) = found["workers"]["found"]
    assert (worker["name"], worker["online"]) == ("bench-3", True)
    (champion,) = found["champions"]["found"]
    assert (champion["dataset"], champion["version"], champion["versions"]) == ("toy", 1, 1)
    assert champion["metrics"]["accuracy"] == 41.0
    assert champion["outcome"] == "promoted"
    assert {"data", "runs", "mlflow.db", "mlartifacts"} <= {folder["path"] for folder in found["disk"]}
    assert found["free"] > 0
    assert (found["prefect"], found["deployments"]["problem"], found["champions"]["problem"]) == (
        prefect_server,
        None,
        None,
    )


def test_for_people(trained: Path, deployed: None, prefect_server: str) -> None:
    started = time.monotonic()
    said = status(trained, PREFECT_API_URL=prefect_server).stdout
    assert time.monotonic() - started < 60  # 3 s on an idle machine
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    (champion,) = (line for line in said.splitlines() if "version 1" in line)
    assert "accuracy 41.0" in champion
    assert "promoted " in champion
    assert " days ago" in champion
    assert "0 3 * * * Europe/Berlin" in lines["toy"]
    assert re.search(r"Promoted \d+ (s|min) ago", lines["toy"])
    assert "due 2 h ago" in lines["toy"]
    assert "every 1d (paused)" in lines["other"]
    assert lines["Workers:"] == "Workers: bench-3 online"
    assert "mlflow.db" in lines["Disk:"]


def test_what_changed_and_what_was_never_trained(empty_project: Path) -> None:
    file = empty_project / "params.yaml"
    file.write_text(file.read_text().replace("[toy]", "[toy, other]"))
    (empty_project / "dvc.yaml").write_text(STAGES)
    (empty_project / "pictures").write_text("a")
    for command in (["init", "--no-scm", "-q"], ["config", "core.analytics", "false"], ["repro", "-q", "train@toy"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=empty_project, check=True)

    def states() -> dict[str, str]:
        found = json.loads(status(empty_project, "--json").stdout)["datasets"]
        assert found["problem"] is None
        return {one["name"]: one["state"] for one in found["found"]}

    assert states() == {"toy": "up to date", "other": "not trained"}
    (empty_project / "pictures").write_text("b")
    assert states() == {"toy": "changed", "other": "not trained"}
    assert not (empty_project / "mlflow.db").exists()  # looking makes nothing


def test_servers_that_do_not_answer_are_sentences(trained: Path) -> None:
    away = "http://ada:secret@127.0.0.1:9"
    done = status(trained, PREFECT_API_URL=f"{away}/api", MLFLOW_TRACKING_URI=away)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Prefect at http://ada:***@127.0.0.1:9/api does not answer" in done.stdout
    assert "MLflow at http://ada:***@127.0.0.1:9 cannot be used" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert "DVC does not say what changed" in done.stdout  # this project is under no DVC
    assert "Disk: " in done.stdout


@pytest.mark.parametrize("said", ["", "print('nothing')", "print(1)"])
def test_an_answer_of_dvc_that_is_none_is_a_sentence(trained: Path, said: str) -> None:
    (trained / "dvc.py").write_text(said)  # hides DVC from those who start it here
    done = status(trained)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DVC does not say what changed in words known here: ask it with `dvc status`." in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_what_may_not_be_looked_at_counts_nothing(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "kept" / "closed").mkdir(parents=True)
    (tmp_path / "kept" / "file").write_bytes(bytes(1000))
    (tmp_path / "kept" / "closed").chmod(0)
    assert f"{tmp_path / 'kept'} 1.0 kB" in status(trained, MMLOP_CACHE=str(tmp_path / "kept")).stdout


def test_a_cache_that_cannot_be_there_is_left_out(trained: Path) -> None:
    done = status(trained, MMLOP_CACHE=f"/{'a' * 300}")  # longer than a name may be
    assert (done.returncode, done.stderr) == (0, "")
    assert "aaa" not in done.stdout


def test_without_a_server_there_are_no_schedules(trained: Path, tmp_path: Path) -> None:
    shutil.rmtree(trained / "runs")
    done = status(trained, PREFECT_HOME=str(tmp_path / "prefect"), PREFECT_API_URL="")
    assert "none without a Prefect server" in done.stdout
    assert not (tmp_path / "prefect" / "prefect.db").exists()  # none was started to ask it


def test_outside_a_project(tmp_path: Path) -> None:
    done = status(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "params.yaml does not exist" in done.stderr


def test_times_and_sizes_are_for_people() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 75, 4000, 100_000, 200_000)] == [
        *("0 s", "59 s", "1 min", "1 h", "27 h", "2 days"),
    ]
    assert [size(count) for count in (0, 999, 46_000, 2_500_000_000, 3e15)] == [
        "0 B",
        "999 B",
        "46.0 kB",
        "2.5 GB",
        "3000.0 TB",
    ]
