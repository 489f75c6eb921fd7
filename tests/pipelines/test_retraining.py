"""Scheduled retraining against a real Prefect server and a real worker: what it decides, and what survives a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from clone import Project
from PIL import Image
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from mmlop.data.mini import benchmark

pytest_plugins = ["clone_fixtures"]
pytestmark = pytest.mark.slow

CLOTH = "cloth"
CLASSES = 6
API: list[str] = []  # of the session's Prefect server


class Pictures:
    """A folder of one's own that grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        task = benchmark.TASKS["mini_textures"]
        self.template, self.classes = task.template, sorted(task.classes)[:CLASSES]
        self.drawn: dict[str, list[Image.Image]] = {name: [] for name in self.classes}
        for part, label, picture in benchmark.render(task, 7, {"train": 60, "val": 1, "test": 1}):
            if part == "train" and task.classes[label] in self.drawn:
                self.drawn[task.classes[label]].append(picture)

    def add(self, numbers: range, shift: int = 0) -> None:
        """So many of every class; with a ``shift``, under the name of another class."""
        for index, name in enumerate(self.classes):
            true = self.classes[(index + shift) % len(self.classes)]
            for number in numbers:
                file = self.folder / name / f"{true}-{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                self.drawn[true][number].save(file)


class Told(BaseHTTPRequestHandler):
    """Somewhere to be notified."""

    texts: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret-token"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    pictures = Pictures(tmp_path_factory.mktemp("photos"))
    pictures.add(range(8))
    return pictures


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures, prefect_server: str) -> Project:
    API.append(prefect_server)
    project = Project(tmp_path_factory.mktemp("retraining"))
    project.edit(
        datasets=[CLOTH],
        sources={CLOTH: {"folder": str(pictures.folder), "template": pictures.template}},
        protocols__base_to_novel=False,
        fewshot__seeds=[1],
        train__epochs=4,
        retrain__schedule="20s",
    )
    project.commit()
    return project


class Worker:
    """`mmlop worker` in the project, with everything it starts."""

    def __init__(self, project: Project, log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            command = [sys.executable, "-m", "mmlop.cli", "worker"]
            often = {"PREFECT_WORKER_QUERY_SECONDS": "1"}  # it asks for work every 10 s as a rule
            self.process = subprocess.Popen(
                command, cwd=project.folder, env=project.environment() | often, stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """As when the machine goes down: all at once, and nobody can tidy up."""
        worker = psutil.Process(self.process.pid)
        family = [worker, *worker.children(recursive=True)]
        for one in family:
            one.suspend()  # so that none of them sees another die
        for one in family:
            one.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)


@pytest.fixture(scope="module")
def worker(project: Project, webhook: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Deployed, with a worker."""
    said = project.mmlop("deploy", MMLOP_NOTIFY_URL=webhook).stdout
    assert f"deployed retrain/{CLOTH}, every 20s" in said
    assert "secret-token" not in said
    assert project.mmlop("deploy", MMLOP_NOTIFY_URL=webhook).stdout == said
    assert "prefect.automation.updated" not in heard()  # they would forget whose heartbeats they wait for
    worker = Worker(project, tmp_path_factory.mktemp("worker") / "log")
    yield worker
    worker.stop()


def asking() -> SyncPrefectClient:
    """A client of the session's server, whatever settings Prefect has at hand in this process."""
    return SyncPrefectClient(api=API[0])


def wait_for(what: Callable[[], Any], seconds: float, log: Path | None = None) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"nothing after {seconds} s: {heard()}; the worker said:\n{log.read_text() if log else ''}"
            )
        time.sleep(0.5)
    return found


def heard() -> str:
    """What the server was told of runs and automations."""
    with asking() as client:
        asked = {"filter": {"event": {"prefix": ["prefect.flow-run.", "prefect.automation."]}}, "limit": 40}
        events = client._client.post("/events/filter", json=asked).json()["events"]
    return "\n".join(f"{e['occurred']} {e['event']} {e['resource'].get('prefect.resource.name')}" for e in events)


def runs_of(deployment: Any) -> FlowRunFilter:
    """Those of a deployment that are not just on the schedule."""
    not_waiting = {"type": {"not_any_": ["SCHEDULED"]}}
    return FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, "state": not_waiting})


def runs() -> list[Any]:
    """The runs of the deployment that have begun, oldest first."""
    with asking() as client:
        try:
            deployment = client.read_deployment_by_name(f"retrain/{CLOTH}").id
        except ObjectNotFound:  # while it is made anew
            return []
        found = client.read_flow_runs(flow_run_filter=runs_of(deployment))
    return sorted((run for run in found if run.start_time), key=lambda run: run.start_time)


def ended(since: datetime, *names: str) -> Any:
    """The first run that began after ``since`` and ended in a state of one of these names."""
    return next((run for run in runs() if run.start_time > since and run.state.name in names), None)


def ask(state: Any = None) -> Any:
    """A run asked for by hand."""
    with asking() as client:
        deployment = client.read_deployment_by_name(f"retrain/{CLOTH}").id
        return client.create_flow_run_from_deployment(deployment, state=state).id


def at_work() -> list[Any]:
    """Runs of the deployment, and of the training in it, that have been taken up and did not end."""
    with asking() as client:
        ours = client.read_deployment_by_name(f"retrain/{CLOTH}").id
        busy = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
        found = client.read_flow_runs(flow_run_filter=busy)
    return [run for run in found if run.deployment_id == ours or run.name == f"train-{CLOTH}"]


def forget_waiting() -> None:
    """Delete runs of an earlier schedule that were due and waited for their turn."""
    with asking() as client:
        waiting = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
        for run in client.read_flow_runs(flow_run_filter=waiting):
            client.delete_flow_run(run.id)


def read(run_id: Any) -> Any:
    with asking() as client:
        return client.read_flow_run(run_id)


def store(project: Project) -> Any:
    from mlflow import MlflowClient

    uri = f"sqlite:///{project.folder / 'mlflow.db'}"
    return MlflowClient(uri, registry_uri=uri)  # given, since a test before may have left another one behind


def versions(project: Project) -> list[int]:
    return sorted(int(one.version) for one in store(project).search_model_versions(f"name='mmlop-{CLOTH}'"))


def champion(project: Project) -> int:
    return int(store(project).get_registered_model(f"mmlop-{CLOTH}").aliases["champion"])


def report() -> str:
    """The newest Markdown artifact."""
    with asking() as client:
        found = client._client.get(f"/artifacts/retrain-{CLOTH}/latest").json()
    return str(found["data"])


def test_the_schedule_promotes_what_is_better_and_keeps_out_what_is_not(
    project: Project, pictures: Pictures, worker: Worker
) -> None:
    start = datetime.now(UTC)
    first = wait_for(lambda: ended(start, "Promoted", "Failed"), 300, worker.log)
    assert first.state.message == f"{CLOTH}: Version 1 is the first champion."

    wait_for(lambda: f"retrain-{CLOTH}: promoted\n{first.state.message}" in Told.texts, 20)

    second = wait_for(lambda: ended(first.end_time, "Unchanged", "Promoted", "Kept", "Failed"), 300, worker.log)
    assert second.state.message == f"{CLOTH}: no new adapter, version 1 stays champion."
    assert second.total_run_time < timedelta(seconds=30)
    assert report().startswith(f"## {CLOTH}: unchanged")
    tags = store(project).get_registered_model(f"mmlop-{CLOTH}").tags
    assert tags["mmlop.retrain_outcome"] == "unchanged"
    assert datetime.fromisoformat(tags["mmlop.retrained_at"]) > first.end_time
    assert "mmlop.retrain_before" not in tags

    pictures.add(range(8, 40))
    grown = wait_for(lambda: ended(second.end_time, "Promoted", "Kept", "Failed"), 300, worker.log)
    assert grown.state.name == "Promoted"
    assert "Version 2 replaces version 1 as champion" in grown.state.message
    assert champion(project) == 2
    told = report()
    assert told.startswith(f"## {CLOTH}: a new champion")
    assert f"data/{CLOTH} modified" in told
    assert "| champion |" in told
    assert "| challenger |" in told
    assert all(f"| {name} |" in told for name in pictures.classes)
    tags = store(project).get_model_version(f"mmlop-{CLOTH}", "2").tags
    assert tags["mmlop.retrain_outcome"] == "promoted"
    assert tags["mmlop.retrain_flow_run"] == str(grown.id)

    pictures.add(range(40, 60), shift=1)  # wrong labels
    poisoned = wait_for(lambda: ended(grown.end_time, "Promoted", "Kept", "Failed"), 300, worker.log)
    assert poisoned.state.name == "Kept"
    assert "Version 2 stays champion, version 3 is not shown to be better" in poisoned.state.message
    assert champion(project) == 2
    assert versions(project) == [1, 2, 3]


def test_of_missed_runs_the_newest_makes_up_for_all(project: Project, worker: Worker) -> None:
    project.edit(retrain__schedule=None)
    assert "by hand only" in project.mmlop("deploy").stdout
    with asking() as client:
        assert not client.read_deployment_by_name(f"retrain/{CLOTH}").schedules
    forget_waiting()
    wait_for(lambda: not at_work(), 90, worker.log)
    wait_for(lambda: not any(run.expected_start_time > datetime.now(UTC) - timedelta(seconds=9) for run in runs()), 60)
    now = datetime.now(UTC)
    missed = [ask(Scheduled(scheduled_time=now - timedelta(seconds=late))) for late in (6, 4, 2)]
    wait_for(lambda: all(read(one).state.is_final() for one in missed), 120, worker.log)
    newest = read(missed[-1]).state.name
    assert newest != "Skipped"
    assert [read(one).state.name for one in missed] == ["Skipped", "Skipped", newest]


def test_a_killed_machine_costs_no_run_and_makes_no_second_version(project: Project, worker: Worker, webhook: str) -> None:
    """The webhook was taken away by the deployment of the test before; a third one brings it back."""
    project.edit(retrain__schedule=None)
    project.mmlop("deploy", MMLOP_NOTIFY_URL=webhook)
    forget_waiting()
    wait_for(lambda: not at_work(), 60, worker.log)
    project.edit(train__epochs=20)
    Told.texts.clear()
    before = versions(project)
    run = ask()
    checkpoints = project.folder / ".mmlop" / "checkpoints" / CLOTH
    wait_for(lambda: list(checkpoints.glob("*.safetensors")), 120, worker.log)
    worker.kill()
    assert not (project.folder / "runs" / CLOTH).exists()
    assert versions(project) == before

    other = Worker(project, worker.log.with_name("second"))
    try:
        wait_for(lambda: read(run).run_count == 2, 200, other.log)
        wait_for(lambda: read(run).state.is_final(), 200, other.log)
        with asking() as client:
            states = [state.name for state in client.read_flow_run_states(run)]
        assert "Crashed" in states
        assert states.index("Crashed") < states.index("AwaitingRetry")
        assert read(run).state.name in ("Promoted", "Kept")
        assert len(versions(project)) == len(before) + 1
        wait_for(lambda: any("crashed" in text for text in Told.texts), 20)
    finally:
        other.stop()
    assert not at_work()


def test_two_at_once_take_turns(project: Project, pictures: Pictures) -> None:
    project.edit(train__epochs=3)
    before = versions(project)
    command = [sys.executable, "-m", "pipelines.retrain", CLOTH]
    both = [
        subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum(f"waiting for another retraining of {CLOTH} to end" in text for text in said) == 1
    assert len(versions(project)) == len(before) + 1
    assert sum("no new adapter" in text for text in said) == 1


def test_a_mistake_is_one_sentence_and_a_failed_run(project: Project) -> None:
    good = (project.folder / "params.yaml").read_text()
    try:
        project.edit(prompts__rank=7)
        done = project.run("python", "-m", "pipelines.retrain", CLOTH, check=False)
        assert done.returncode == 1
        assert "prompts.rank is 7" in done.stdout
        assert "Traceback" not in done.stdout
    finally:
        (project.folder / "params.yaml").write_text(good)


def test_a_training_without_its_slot_is_refused(project: Project) -> None:
    project.run("dvc", "repro", "split")
    said = project.run("python", "-m", "pipelines.train", CLOTH, check=False, MMLOP_SLOT="no-such-limit")
    assert said.returncode == 1
    assert "Prefect gave no slot of the concurrency limit 'no-such-limit'" in said.stdout
    assert "Traceback" not in said.stdout


def test_one_machine_serves_its_schedules_itself(project: Project, tmp_path: Path) -> None:
    project.edit(retrain__schedule="20s")
    since = datetime.now(UTC)
    log = tmp_path / "log"
    with log.open("w") as output:
        serving = subprocess.Popen(
            [sys.executable, "-m", "mmlop.cli", "deploy", "--serve"],
            cwd=project.folder,
            env=project.environment() | {"PREFECT_API_URL": API[0]},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        found = wait_for(lambda: ended(since, "Unchanged", "Kept", "Promoted", "Failed"), 120, log)
        assert found.state.name != "Failed", found.state.message
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(60)
    with asking() as client:
        assert client.read_deployment_by_name(f"retrain/{CLOTH}").paused
