"""Trainings side by side: in processes here, and on a Dask cluster whose workers are in clones of their own.

The clones share what machines would share: a DVC remote, an MLflow server and a Prefect server.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from clone import Project
from mlflow_server import MlflowServer

from mmlop import config
from mmlop.errors import MmlopError
from pipelines import cluster, elsewhere

pytest_plugins = ["clone_fixtures"]

DATASETS = ["mini_digits", "mini_textures"]
SMALL = {
    "datasets": DATASETS,
    "data__per_class": {"train": 4, "val": 4, "test": 4},
    "fewshot__shots": 2,
    "fewshot__seeds": [1, 2],
    "train__epochs": 2,
}
NOBODY = "tcp://127.0.0.1:9"


class Cluster:
    """A Dask scheduler and two workers, each in a clone of ``project``; and the servers that all of them share."""

    def __init__(self, project: Project, prefect: str, folder: Path) -> None:
        self.project, self.prefect, self.folder = project, prefect, folder
        self.mlflow = MlflowServer(folder / "mlflow")
        self.processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.clones = [folder / "one", folder / "two"]

    def start(self) -> None:
        from distributed import Client

        self.mlflow.start()
        self._dask("scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2], "--no-dashboard")
        for number, clone in enumerate(self.clones):
            self.project.run("git", "clone", "--quiet", str(self.project.folder), str(clone))
            self.share(clone)
            offers = "GPU=1 FIRST=1" if number == 0 else "GPU=1"
            command = ("worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard")
            self._dask(*command, "--resources", offers, "--local-directory", str(self.folder), cwd=clone)
        with Client(self.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(len(self.clones), timeout=60)

    def share(self, clone: Path) -> None:
        remote = os.path.relpath(self.folder / "remote", clone / ".dvc")
        with (clone / ".dvc/config.local").open("w") as file:
            file.write(f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {remote}\n")

    def _dask(self, *arguments: str, cwd: Path | None = None) -> None:
        cwd = cwd or self.folder
        environment = self.project.environment() | {"PYTHONPATH": str(cwd)}
        environment.pop("PREFECT_API_URL", None)  # an order brings it
        with self.log(cwd).open("ab") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            self.processes.append(
                subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    @staticmethod
    def log(clone: Path) -> Path:
        return clone.with_name(f"{clone.name}.log")

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.mlflow.kill()

    def environment(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.mlflow.url, "PREFECT_API_URL": self.prefect}

    def benchmark(self, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.project.run("python", "-m", "pipelines.benchmark", check=check, **self.environment())

    def versions(self, dataset: str) -> list[Any]:
        from mlflow import MlflowClient

        return list(
            MlflowClient(self.mlflow.url, registry_uri=self.mlflow.url).search_model_versions(f"name='mmlop-{dataset}'")
        )


@pytest.fixture(scope="module")
def dask_cluster(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "asking").mkdir()
    project = Project(folder / "asking")
    found = Cluster(project, prefect_server, folder)
    project.edit(**SMALL, run__runner="dask", run__dask=found.address, run__resources={"GPU": 1})
    project.commit()
    found.share(project.folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def timings(folder: Path) -> set[str]:
    file = folder / "reports/timings.json"
    return set(json.loads(file.read_text())) if file.exists() else set()


@pytest.mark.slow
def test_other_clones_train_and_the_asking_one_has_the_results(dask_cluster: Cluster) -> None:
    project = dask_cluster.project
    said = dask_cluster.benchmark().stdout
    for dataset in DATASETS:
        assert f"{dataset}: trained by" in said
        assert f"Stage 'train@{dataset}' is cached - skipping run" in said
        assert (project.folder / "runs" / dataset / "adapter/adapter.safetensors").is_file()
        assert json.loads((project.folder / "results" / f"{dataset}.json").read_text())["mmlop"]
        assert (project.folder / "results" / f"{dataset}.jsonl").stat().st_size > 0
        versions = dask_cluster.versions(dataset)
        assert len(versions) == 1
    assert set(json.loads((project.folder / "reports/summary.json").read_text())["datasets"]) == set(DATASETS)

    assert not [stage for stage in timings(project.folder) if stage.startswith("train@")]
    by_clone = [{name for name in timings(clone) if name.startswith("elsewhere@")} for clone in dask_cluster.clones]
    assert sorted(map(sorted, by_clone)) == [[f"elsewhere@{dataset}"] for dataset in DATASETS]
    for clone in dask_cluster.clones:
        assert not (clone / "runs").exists()  # only worktrees were used, and they are gone
        assert not [path for path in (clone / ".mmlop/work").iterdir() if path.is_dir()]

    again = project.run("dvc", "repro").stdout
    assert "Running stage" not in again
    assert "up to date" in again
    assert "trained by" not in dask_cluster.benchmark().stdout
    assert "mini_digits" in project.mmlop("registry", "list", **dask_cluster.environment()).stdout


@pytest.mark.slow
def test_a_training_ends_with_its_dask_worker_and_goes_on_in_the_next(dask_cluster: Cluster) -> None:
    project, clone = dask_cluster.project, dask_cluster.clones[0]
    before = len(dask_cluster.versions("mini_digits"))
    # Only the first worker has this; its nanny starts it again, in the same clone.
    project.edit(datasets=["mini_digits"], train__epochs=12, run__resources={"FIRST": 1})
    asking = subprocess.Popen(
        [sys.executable, "-m", "pipelines.benchmark"],
        cwd=project.folder,
        env=project.environment() | dask_cluster.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoints = clone / ".mmlop/work/mini_digits/.mmlop/checkpoints/mini_digits"
    wait_until(lambda: any(checkpoints.glob("*.safetensors")), lambda: asking.poll() is None)
    running = [found for found in psutil.process_iter() if about(found, "pipelines.elsewhere", clone)]
    assert len(running) == 1
    training = [running[0], *running[0].children(recursive=True)]
    assert any("pipelines.train" in found.cmdline() for found in training)
    running[0].parent().kill()  # SIGKILL to the Dask worker
    _, alive = psutil.wait_procs(training, timeout=10)
    assert not alive

    said = asking.communicate(timeout=600)[0]
    assert asking.returncode == 0, said
    assert "mini_digits: trained by" in said
    assert "resuming after epoch" in dask_cluster.log(clone).read_text(errors="replace")
    assert len(dask_cluster.versions("mini_digits")) == before + 1
    assert not (clone / ".mmlop/work/mini_digits").exists()


def wait_until(done: Callable[[], bool], going_on: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert going_on()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def about(process: psutil.Process, module: str, folder: Path) -> bool:
    try:
        return module in process.cmdline() and Path(process.cwd()) == folder
    except psutil.Error:
        return False


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_one_sentence_here(dask_cluster: Cluster) -> None:
    project = dask_cluster.project
    for clone in dask_cluster.clones:
        project.run("git", "-C", str(clone), "remote", "remove", "origin")
    project.edit(datasets=["mini_digits"], train__epochs=3, run__resources={"GPU": 1})
    project.commit()  # which no other clone knows of, nor where to find it
    done = dask_cluster.benchmark(check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    commit = project.run("git", "rev-parse", "HEAD").stdout.strip()
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(f"Error: mini_digits could not be trained by {socket.gethostname()}:{dask_cluster.folder}/")
    assert f"commit {commit[:10]} is neither in" in last
    for clone in dask_cluster.clones:
        assert "Traceback" not in dask_cluster.log(clone).read_text(errors="replace").rpartition("commit")[0][-500:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run__dask": NOBODY}, f"no Dask scheduler answers at {NOBODY}"),
        (
            {"run__resources": {"TPU": 2}},
            "no Dask worker offers run.resources: .*--resources TPU=2",
        ),
    ],
)
def test_a_cluster_that_cannot_do_it_is_refused(
    dask_cluster: Cluster, changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = (dask_cluster.project.folder / "params.yaml").read_text()
    for name, value in dask_cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(dask_cluster.project.folder)
    try:
        dask_cluster.project.edit(**changes)
        with pytest.raises(MmlopError, match=says):
            cluster.runner(config.load())
    finally:
        (dask_cluster.project.folder / "params.yaml").write_text(params)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone that asks a cluster which is not there."""
    project = Project(tmp_path_factory.mktemp("asking"))
    project.edit(run__runner="dask", run__dask=NOBODY)
    project.commit()
    return project


def forget_dask(project: Project, patch: pytest.MonkeyPatch) -> None:
    for module in ("prefect_dask", "prefect_dask.task_runners"):  # as if it were not installed
        patch.setitem(sys.modules, module, None)


def forget_remote(project: Project, patch: pytest.MonkeyPatch) -> None:
    (project.folder / ".dvc/config.local").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (forget_dask, r"pip install -e '\.\[dask\]'"),
        (forget_remote, "has no DVC remote"),
        (lambda _, patch: patch.delenv("MLFLOW_TRACKING_URI"), "set MLFLOW_TRACKING_URI to its address"),
        (
            lambda _, patch: patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
            "set MLFLOW_TRACKING_URI to its address",
        ),
        (lambda _, patch: patch.delenv("PREFECT_API_URL"), "set PREFECT_API_URL to its address"),
        (lambda project, _: project.edit(sources__mini_digits={"folder": "photos"}), "sources.mini_digits is at photos"),
        (lambda *_: None, "cannot reach the MLflow server at http://127.0.0.1:9"),
    ],
)
def test_asking_without_what_clones_share_is_refused(
    asking: Project,
    spoil: Callable[[Project, pytest.MonkeyPatch], None],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    params = (asking.folder / "params.yaml").read_text()
    (asking.folder / ".dvc/config.local").write_text(
        f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {tmp_path}\n"
    )
    monkeypatch.chdir(asking.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    try:
        spoil(asking, monkeypatch)
        with pytest.raises(MmlopError, match=says):
            cluster.runner(config.load())
    finally:
        (asking.folder / "params.yaml").write_text(params)


@pytest.mark.parametrize("name", ["mmlop/training.py", "dvc.yaml", "pipelines/new.py"])
def test_code_that_is_not_committed_is_refused(asking: Project, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(asking.folder)
    with (asking.folder / "params.yaml").open("a") as file:
        file.write("\n")  # which travels along
    cluster.require_commit()
    try:
        with (asking.folder / name).open("a") as file:
            file.write("\n")
        with pytest.raises(MmlopError, match=f"{name} changed since the last commit"):
            cluster.require_commit()
    finally:
        asking.run("git", "checkout", "--", ".")
        asking.run("git", "clean", "-fdq", "pipelines")


def test_a_worker_outside_a_clone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLOP_PROJECT", str(tmp_path))
    assert f"{tmp_path} is no clone of the project" in elsewhere.trouble("http://127.0.0.1:9", "http://127.0.0.1:9/api")


def test_a_training_that_ends_before_it_reads_its_order_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLOP_PROJECT", str(tmp_path))
    (tmp_path / "mmlop.py").write_text("raise SystemExit('no room left')")  # something of its own in the way
    order = elsewhere.Order("toy", "", "#" * 1_000_000, "", "http://127.0.0.1:9", "")  # more than a pipe holds
    with pytest.raises(MmlopError, match=f"toy could not be trained by .*:{tmp_path}: no room left"):
        elsewhere.train(order)


@pytest.mark.slow
def test_data_sets_are_trained_side_by_side_by_processes(tmp_path: Path, prefect_server: str) -> None:
    project = Project(tmp_path)
    project.edit(**SMALL, run__runner="processes", run__concurrency=2)
    project.commit()
    project.run("python", "-m", "pipelines.benchmark")
    assert set(json.loads((project.folder / "reports/summary.json").read_text())["datasets"]) == set(DATASETS)
    assert {f"train@{dataset}" for dataset in DATASETS} <= timings(project.folder)
    assert "Running stage" not in project.run("dvc", "repro").stdout
