"""Logging to real SQLite stores: what arrives, that it arrives once, and what happens when nobody answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from make_run import EPOCHS, make_run
from PIL import Image

from mmlop import figures, store, tracking
from mmlop.errors import MmlopError
from mmlop.store import TrackingUnavailable

pytest_plugins = ["project_fixtures"]


def children(client: Any, parent: str) -> list[Any]:
    experiment = client.get_run(parent).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"))


def test_what_is_logged(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone)
    parent = tracking.log_run(folder, {"git_commit": "abc", "flow_run_id": "f"})
    client = store.connect()
    run = client.get_run(parent)
    assert client.get_experiment(run.info.experiment_id).name == "mmlop-toy"
    assert run.info.status == "FINISHED"
    assert run.data.params["prompts.rank"] == "1"
    assert run.data.params["fewshot.seeds"] == "[1, 2]"
    assert run.data.metrics["zero_shot/novel"] == 35.0
    assert run.data.metrics["summary/hm"] == pytest.approx(44.4444)
    assert run.data.metrics["deliverable/accuracy"] == 41.0
    tags = run.data.tags
    assert tags["mmlop.complete"] == "true"
    assert (tags["mmlop.git_commit"], tags["mlflow.source.git.commit"], tags["mmlop.flow_run_id"]) == ("abc", "abc", "f")
    assert tags["mmlop.split_hash"] == "5" * 64
    assert run.inputs.dataset_inputs[0].dataset.name == "toy"
    assert {file.path for file in client.list_artifacts(parent)} == {"run.json", "confusion.png", "card.html"}
    assert (project / "mlartifacts" / "mmlop-toy").is_dir()

    seeds = children(client, parent)
    assert sorted(child.data.params["seed"] for child in seeds) == ["1", "2"]
    child = seeds[0]
    assert child.info.status == "FINISHED"
    assert child.data.metrics["base_to_novel/hm"] == pytest.approx(44.4444)
    assert child.data.metrics["all_classes/accuracy"] == 41.0  # of test pictures, not the last epoch's
    history = client.get_metric_history(child.info.run_id, "base_to_novel/loss")
    assert [(point.step, point.value) for point in history] == [(e, 3.0 / (e + 1)) for e in range(EPOCHS)]


def test_the_same_results_are_logged_once(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone)
    parent = tracking.log_run(folder, {})
    client = store.connect()
    experiment = client.get_run(parent).info.experiment_id
    before = len(client.search_runs([experiment]))
    assert tracking.log_run(folder, {"git_commit": "another"}) == parent
    assert len(client.search_runs([experiment])) == before == 3


def test_a_run_that_was_killed_half_way_is_replaced(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone)
    half = tracking.log_run(folder, {})
    client = store.connect()
    client.delete_tag(half, "mmlop.complete")  # set last: without it, logging did not come to its end
    whole = tracking.log_run(folder, {})
    assert whole != half
    assert client.get_run(half).info.lifecycle_stage == "deleted"
    assert len(children(client, whole)) == 2
    experiment = client.get_run(whole).info.experiment_id
    assert len(client.search_runs([experiment])) == 3
    assert [model.source_run_id for model in client.search_logged_models([experiment])] == [whole]


def test_a_deleted_experiment_is_named(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone, seeds=1)
    client = store.connect()
    client.delete_experiment(client.create_experiment("mmlop-toy"))
    with pytest.raises(TrackingUnavailable, match=r"'mmlop-toy' was deleted; `mlflow experiments restore -x 1`"):
        tracking.log_run(folder, {})


def test_results_that_do_not_fit_are_refused(project: Path, backbone: Path) -> None:
    with pytest.raises(MmlopError, match=r"run\.json does not exist: train first"):
        tracking.log_run(project / "runs" / "toy", {})
    folder = make_run(project, "toy", backbone)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({key: record[key] for key in record if key != "seeds"}))
    with pytest.raises(MmlopError, match=r"no record of a training \(KeyError\('seeds'\)\)"):
        tracking.log_run(folder, {})
    (folder / "run.json").write_text(json.dumps(record))
    text = (folder / "adapter" / "adapter.json").read_text()
    (folder / "adapter" / "adapter.json").write_text(text + "\n")
    with pytest.raises(MmlopError, match="is not the adapter that"):
        tracking.log_run(folder, {})


def test_the_default_store_is_the_projects(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = project / "data" / "toy"
    monkeypatch.chdir(inside)
    assert store.tracking_uri() == f"sqlite:///{project}/mlflow.db"
    store.connect()
    assert not list(inside.glob("ml*"))
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"} & os.environ.keys()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_stage_in_a_temporary_copy_logs_to_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = project / ".dvc" / "tmp" / "exps" / "copy"
    copy.mkdir(parents=True)
    (copy / "params.yaml").write_text("datasets: [toy]\n")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))  # what DVC sets there
    assert store.tracking_uri() == f"sqlite:///{project}/mlflow.db"


def test_processes_that_start_together_on_a_fresh_store(empty_project: Path) -> None:
    code = "from mmlop import store; print(len(store.connect().search_experiments()))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    together = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in together:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (0, b"1\n", b"")  # and quiet
    assert not (empty_project / "mlflow.db.new").exists()


def test_no_server_is_one_sentence(project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(project, "toy", backbone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        start = time.monotonic()
        with pytest.raises(TrackingUnavailable) as caught:
            tracking.log_run(folder, {})
    assert time.monotonic() - start < 10
    sentence = str(caught.value)
    assert address in sentence
    assert "results stay on disk in runs/" in sentence
    assert "`mmlop registry sync`" in sentence
    assert "\n" not in sentence


def test_a_server_that_accepts_but_never_answers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TrackingUnavailable, match="no answer within"):
            store.connect()


def test_a_database_server_has_no_place_for_adapters(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@127.0.0.1:1/mlflow")
    with pytest.raises(TrackingUnavailable) as caught:
        store.connect()
    assert "postgresql+psycopg2://me:***@127.0.0.1:1/mlflow cannot be used (adapters have no place" in str(caught.value)
    assert "start `mlflow server`" in str(caught.value)


def test_a_file_that_is_no_database(project: Path) -> None:
    (project / "mlflow.db").write_text("not a database")
    with pytest.raises(TrackingUnavailable, match="cannot be used"):
        store.connect()


def test_lineage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert tracking.lineage() == {}
    name = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    (project / "dvc.lock").write_text("stages: {}\n")
    for command in (["init", "-q"], ["add", "params.yaml", "dvc.lock"], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True, cwd=project)
    clean = tracking.lineage()
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] == "false"
    (project / "dvc.lock").write_text("stages: {train@toy: {}}\n")  # as every training does
    assert tracking.lineage() == clean
    (project / "params.yaml").write_text("datasets: [toy]\n")
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-sofa")
    assert tracking.lineage() == clean | {"git_dirty": "true", "dvc_experiment": "puffy-sofa"}


@pytest.mark.parametrize("classes", [2, 100])
def test_the_confusion_figure(classes: int, tmp_path: Path) -> None:
    counts = [[int(row == column) * 3 for column in range(classes)] for row in range(classes)]
    figures.confusion_matrix(counts, [f"class {i}" for i in range(classes)], "title", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300
        assert not picture.info.get("Software")  # the version of matplotlib
