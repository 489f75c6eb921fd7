"""Kills, outages and full disks: what was done before stays, and what goes on afterwards ends as if nothing had been."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from clone import Project
from make_run import make_data, make_run
from mlflow_server import LosingProxy, MlflowServer
from together import flow_together, publish_together

from mmlop import adapter, registry, store
from mmlop.store import TrackingUnavailable

pytest_plugins = ["clone_fixtures", "project_fixtures", "small_disk"]
pytestmark = pytest.mark.slow


def test_eight_publish_at_once_to_sqlite(empty_project: Path, backbone: Path) -> None:
    """Into a database that is not there yet."""
    names = [f"toy{number}" for number in range(8)]
    for seed, name in enumerate(names):
        make_data(empty_project, name)
        make_run(empty_project, name, backbone, seed)
    said = publish_together(empty_project, names)
    assert [line.split(". ")[0] for line in said] == [f"{name}: registered as mmlop-{name} version 1" for name in names]
    client = store.connect()
    for name in names:
        assert [version.aliases for version in registry.versions(name)] == [("champion",)]
        runs = client.search_runs([client.get_experiment_by_name(f"mmlop-{name}").experiment_id])
        assert [run.info.status for run in runs] == ["FINISHED"] * 3
        assert sorted(run.data.tags.get("mmlop.complete", "") for run in runs) == ["", "", "true"]


def test_eight_flows_at_once_on_sqlite(prefect_server: str, tmp_path: Path) -> None:
    flow_together(prefect_server, tmp_path)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """On SQLite; not started."""
    made = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    yield made
    made.kill()


def is_complete_once(client: Any, folder: Path) -> None:
    """What ``folder`` holds is in MLflow, all of it and nothing twice."""
    name, record = folder.name, json.loads((folder / "run.json").read_text())
    experiment = client.get_experiment_by_name(f"mmlop-{name}").experiment_id
    runs = client.search_runs([experiment])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.params["seed"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert parent.data.tags["mmlop.complete"] == "true"
    assert parent.data.metrics["summary/hm"] == pytest.approx(record["summary"]["hm"])
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"run.json", "confusion.png", "card.html"}
    assert children.keys() == record["seeds"].keys() == {"1", "2"}
    for seed, child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for trained in record["seeds"][seed]:
            history = client.get_metric_history(child.info.run_id, f"{trained['protocol']}/loss")
            losses = [epoch["loss"] for epoch in trained["history"]]
            assert [(point.step, point.value) for point in history] == list(enumerate(losses))
    (model,) = client.search_logged_models([experiment])
    assert model.source_run_id == parent.info.run_id
    (version,) = registry.versions(name)
    assert (version.version, version.aliases, version.run_id) == (1, ("champion",), parent.info.run_id)
    assert version.tags["mmlop.decision"] == "first"
    assert adapter.identity(registry.resolve(f"models:/mmlop-{name}@champion")) == adapter.identity(folder / "adapter")


@pytest.mark.parametrize(
    "once",
    ["tags WHERE key = 'mmlop.run'", "logged_models", "registered_models", "model_versions", "registered_model_aliases"],
)
def test_the_mlflow_server_killed_while_publishing(
    once: str, empty_project: Path, backbone: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as its database holds one more row of that kind."""
    name = once.split()[0]
    make_data(empty_project, name)
    folder = make_run(empty_project, name, backbone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url.replace("//", "//me:hunter2@"))
    monkeypatch.setattr(store, "PAUSES", (0.1, 0.1))
    if mlflow_server.process is None:
        mlflow_server.start()
    database = sqlite3.connect(f"file:{mlflow_server.file}?mode=ro", uri=True)
    before = rows(database, once)
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(registry.publish, folder, {})
        while rows(database, once) == before:
            assert not publishing.done(), publishing.result()
            time.sleep(0.0005)
        mlflow_server.kill()
        with pytest.raises(TrackingUnavailable, match="`mmlop registry sync`") as caught:
            publishing.result(120)
    assert "hunter2" not in str(caught.value)
    database.close()
    mlflow_server.start()
    (published,) = registry.sync(empty_project, name)
    assert published.version is not None
    is_complete_once(store.connect(), folder)
    (again,) = registry.sync(empty_project, name)
    assert again.sentence == f"{name}: already registered as mmlop-{name} version 1."
    is_complete_once(store.connect(), folder)


def rows(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize(
    "lost",
    [("/runs/create", "/model-versions/create"), ("/experiments/create", "/logged-models"), ("/registered-models/create",)],
)
def test_answers_of_the_mlflow_server_are_lost(
    lost: tuple[str, ...],
    empty_project: Path,
    backbone: Path,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did what it was asked for, and is asked again."""
    name = lost[0].split("/")[1]
    make_data(empty_project, name)
    folder = make_run(empty_project, name, backbone)
    monkeypatch.setattr(store, "PAUSES", (0.1, 0.1))
    if mlflow_server.process is None:
        mlflow_server.start()
    with LosingProxy(mlflow_server.port, lost) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        registry.publish(folder, {})
        is_complete_once(store.connect(), folder)
        assert proxy.lost == set(lost)
        proxy.shutdown()


TRAIN = ("python", "-m", "pipelines.train", "mini_digits")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, database: Path) -> Project:
    """A small data set, fetched and split, with an empty store; it trains for a good many short steps."""
    project = Project(tmp_path_factory.mktemp("digits"))
    project.edit(
        datasets=["mini_digits"],
        data__per_class={"train": 8, "val": 4, "test": 4},
        fewshot__shots=8,
        fewshot__seeds=[1, 2],
        train__epochs=6,
    )
    project.run("dvc", "repro", "split")
    wipe(project)
    shutil.copy(database, project.folder / "empty.db")
    project.commit()
    restore(project)
    return project


@pytest.fixture(scope="module")
def undisturbed(digits: Project) -> dict[str, bytes]:
    digits.run(*TRAIN)
    found = outs(digits)
    restore(digits)
    return found


@pytest.fixture
def fresh(digits: Project, undisturbed: dict[str, bytes]) -> Iterator[Project]:
    """The project before its first training."""
    yield digits
    restore(digits)


def outs(project: Project) -> dict[str, bytes]:
    """Every file of the train stage's results, hidden ones too."""
    files = [file for name in ("runs", "results") for file in (project.folder / name).rglob("*") if file.is_file()]
    return {str(file.relative_to(project.folder)): file.read_bytes() for file in files}


def wipe(project: Project) -> None:
    """Remove everything that a training leaves, and what came with the repository of it."""
    for name in ("runs", "results", ".mmlop", "mlartifacts"):
        place = project.folder / name
        place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
    (project.folder / "mlflow.db").unlink(missing_ok=True)


def restore(project: Project) -> None:
    wipe(project)
    project.run("git", "checkout", "--", ".")
    shutil.copy(project.folder / "empty.db", project.folder / "mlflow.db")  # making one takes seconds


class Training:
    """A command that trains, in a process group of its own, watched by its checkpoints."""

    def __init__(self, project: Project, *command: str, **environment: str) -> None:
        self.project, self.folder = project, project.folder / ".mmlop/checkpoints/mini_digits"
        self.process = subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, there: Callable[[], object], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not there():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def saved(self) -> int:
        """When the last checkpoint was written, in ns; 0 before the first."""
        return max((file.stat().st_mtime_ns for file in self.folder.glob("*.safetensors")), default=0)

    def kill_within_an_epoch(self) -> str:
        """A quarter of an epoch after a checkpoint, of which there are two by then."""
        self.until(self.saved)
        last = self.saved()
        while True:
            self.until(lambda known=last: self.saved() != known)
            before, last = last, self.saved()
            time.sleep((last - before) / 4e9)
            os.killpg(self.process.pid, signal.SIGSTOP)  # so that nothing moves while we look
            if self.saved() == last:
                return self.kill()
            os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> str:
        """What it said until then."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.communicate()[0]

    def ends(self, code: int = 0) -> str:
        """What it said; one sentence rather than a traceback, whatever it ended with."""
        said = self.process.communicate(timeout=300)[0]
        assert self.process.returncode == code, said
        assert "Traceback" not in said
        return said


def test_killed_within_an_epoch_and_again_while_it_publishes_it_goes_on_to_the_same_bits(
    fresh: Project, undisturbed: dict[str, bytes]
) -> None:
    first = Training(fresh, "dvc", "repro")
    first.kill_within_an_epoch()
    assert outs(fresh) == {}
    second = Training(fresh, "dvc", "repro")
    second.until((fresh.folder / "runs/mini_digits/run.json").exists)
    assert re.search(r"resuming after epoch [2-5] from", second.kill())
    third = Training(fresh, "dvc", "repro")
    said = third.ends()
    assert "resuming after epoch 6 from" in said  # of what was trained nothing is trained again
    assert "waiting for another" not in said  # nobody is left over
    assert "version 1" in said
    assert outs(fresh) == undisturbed
    assert not third.folder.exists()
    assert "already registered as mmlop-mini_digits version 1" in fresh.mmlop("registry", "sync").stdout
    assert fresh.run("dvc", "status", "--json").stdout.strip() == "{}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{fresh.folder / 'mlflow.db'}")
        is_complete_once(store.connect(), fresh.folder / "runs/mini_digits")


def test_the_mlflow_server_killed_while_training_and_back_later(
    fresh: Project, undisturbed: dict[str, bytes], mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    if mlflow_server.process is None:
        mlflow_server.start()
    training = Training(fresh, *TRAIN, MLFLOW_TRACKING_URI=mlflow_server.url)
    training.until(training.saved)
    mlflow_server.kill()
    said = training.ends()
    assert f"mini_digits: warning: MLflow at {mlflow_server.url} cannot be used (no connection)" in said
    assert outs(fresh) == undisturbed
    mlflow_server.start()
    sync = ("python", "-m", "mmlop.cli", "registry", "sync")
    assert "version 1" in fresh.run(*sync, MLFLOW_TRACKING_URI=mlflow_server.url).stdout
    is_complete_once(store.connect(), fresh.folder / "runs/mini_digits")


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "other").open("ab", buffering=0) as other:
        while True:
            other.write(bytes(1024))


def test_a_disk_that_is_full_at_a_checkpoint(fresh: Project, undisturbed: dict[str, bytes], small_disk: Path) -> None:
    checkpoints = fresh.folder / ".mmlop/checkpoints"
    checkpoints.parent.mkdir(exist_ok=True)
    checkpoints.symlink_to(small_disk)
    training = Training(fresh, *TRAIN)
    training.until(training.saved)
    while training.process.poll() is None:
        fill(small_disk)  # again and again, since a checkpoint that takes the place of another makes room
        time.sleep(0.001)
    said = training.ends(1)
    (kept,) = training.folder.iterdir()
    assert f"Error: There is no room on the disk to write {kept}: make some, and run the same command again." in said
    assert outs(fresh) == {}
    (small_disk / "other").unlink()
    assert "resuming after epoch" in fresh.run(*TRAIN).stdout
    assert outs(fresh) == undisturbed


def test_a_disk_that_is_full_at_the_results(fresh: Project, undisturbed: dict[str, bytes], small_disk: Path) -> None:
    (fresh.folder / "runs").symlink_to(small_disk)
    for name, data in undisturbed.items():
        (fresh.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh.folder / name).write_bytes(data)
    fresh.edit(train__epochs=2)
    fill(small_disk)
    said = Training(fresh, *TRAIN).ends(1)
    assert f"Error: There is no room on the disk to write {fresh.folder}/runs/mini_digits: make some" in said
    assert outs(fresh) == undisturbed | {"runs/other": (small_disk / "other").read_bytes()}
    (small_disk / "other").unlink()
    assert "resuming after epoch 2 from" in fresh.run(*TRAIN).stdout
    assert outs(fresh).keys() == undisturbed.keys()
    assert outs(fresh) != undisturbed


def test_the_prefect_server_killed_while_training(fresh: Project, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("python", "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port))
    prefect = Training(fresh, *command, PREFECT_HOME=str(tmp_path / "prefect"))
    prefect.until(lambda: answers(f"http://127.0.0.1:{port}/api/health"))
    # Three minutes of asking again, as they come, are more than this test has.
    settings = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    training = Training(fresh, *TRAIN, **settings)
    training.until(training.saved)
    prefect.kill()
    said = training.process.communicate(timeout=300)[0]
    assert training.process.returncode == 1
    assert "Error: The Prefect server cannot be reached any more" in said
    assert outs(fresh) == undisturbed
    said = Training(fresh, *TRAIN).ends()
    assert "resuming after epoch 6 from" in said
    assert "already registered as mmlop-mini_digits version 1" in said
    assert outs(fresh) == undisturbed


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True
