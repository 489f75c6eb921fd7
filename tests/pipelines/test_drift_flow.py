"""Looking for drift against a real Prefect server: how a run ends, and that drift starts a retraining."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from clone import Project
from PIL import Image
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from streams import predict

pytest_plugins = ["clone_fixtures"]
pytestmark = pytest.mark.slow

NAME = "mini_textures"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Project:
    """With a champion."""
    project = Project(tmp_path_factory.mktemp("drift"))
    project.edit(
        datasets=[NAME],
        data__per_class={"train": 8, "val": 16, "test": 16},
        protocols__base_to_novel=False,
        fewshot__shots=8,
        fewshot__seeds=[1],
        train__epochs=2,
        drift__log="log",
    )
    project.commit()
    project.run("python", "-m", "pipelines.retrain", NAME)
    keep_adapter(project, 1)
    return project


def keep_adapter(project: Project, version: int) -> Path:
    kept = project.folder / f"adapter-{version}"
    shutil.copytree(project.folder / "runs" / NAME / "adapter", kept)
    return kept


def log(project: Project, adapter: Path, dark: bool = False) -> None:
    """What a service has been sent, in place of what it was sent before."""
    shutil.rmtree(project.folder / "log", ignore_errors=True)
    pictures = [Image.open(file) for file in sorted((project.folder / "data" / NAME / "test").rglob("*.png"))]
    predict(
        adapter, [Image.eval(one, lambda value: value // 3) if dark else one for one in pictures], project.folder / "log"
    )


def look(project: Project) -> str:
    return project.run("python", "-m", "pipelines.drift", NAME).stdout


def runs(server: str, name: str) -> list[Any]:
    """Newest first."""
    with SyncPrefectClient(api=server) as client:
        wanted = FlowRunFilter.model_validate({"name": {"like_": f"{name}-{NAME}"}})
        return list(client.read_flow_runs(flow_run_filter=wanted, sort="EXPECTED_START_TIME_DESC"))


def deployments(server: str) -> list[Any]:
    with SyncPrefectClient(api=server) as client:
        return [one for one in client.read_deployments() if one.name == NAME]


def test_drift_starts_a_retraining(project: Project, prefect_server: str) -> None:
    log(project, project.folder / "adapter-1")
    assert f"{NAME}: No drift, 160 logged beside" in look(project)
    assert runs(prefect_server, "drift")[0].state.name == "Steady"
    log(project, project.folder / "adapter-1", dark=True)
    before = len(runs(prefect_server, "retrain"))
    said = look(project)
    assert "have drifted, 160 logged beside" in said
    assert "trained" not in said
    assert len(runs(prefect_server, "retrain")) == before  # drift.retrain is not set
    project.edit(drift__retrain=True, train__epochs=3)
    said = look(project)
    assert "It was trained again: " in said
    assert "ersion 2" in said
    assert runs(prefect_server, "drift")[0].state.name == "Drifted"
    assert len(runs(prefect_server, "retrain")) == before + 1
    assert runs(prefect_server, "retrain")[0].state.name in ("Kept", "Promoted")
    keep_adapter(project, 2)
    with SyncPrefectClient(api=prefect_server) as client:
        artifact = client._client.get(f"/artifacts/drift-{NAME.replace('_', '-')}/latest").json()
    assert artifact["data"].startswith(f"## {NAME}: drift\n")
    assert artifact["data"] == (project.folder / "reports" / "drift" / f"{NAME}.md").read_text()


def test_a_deployed_one_asks_for_a_run_of_the_deployment(project: Project, prefect_server: str) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{project.folder / 'mlflow.db'}"
    champion = MlflowClient(uri, registry_uri=uri).get_registered_model(f"mmlop-{NAME}").aliases["champion"]
    project.edit(drift__schedule="1d", retrain__schedule=None)
    said = project.mmlop("deploy").stdout
    assert f"deployed drift/{NAME}, every 1d" in said
    assert {one.entrypoint for one in deployments(prefect_server)} == {
        "pipelines/retrain.py:retrain",
        "pipelines/drift.py:drift",
    }
    log(project, project.folder / f"adapter-{3 - int(champion)}")
    assert "Too few to tell: 0 logged" in look(project)  # all of another version
    assert runs(prefect_server, "drift")[0].state.name == "TooFew"
    log(project, project.folder / f"adapter-{champion}", dark=True)
    assert f"of retrain/{NAME}." in look(project)
    (retrain,) = (one for one in deployments(prefect_server) if "retrain" in one.entrypoint)
    with SyncPrefectClient(api=prefect_server) as client:
        asked = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"deployment_id": {"any_": [retrain.id]}})
        )
    assert [one.state.type.value for one in asked] == ["SCHEDULED"]
    project.edit(drift__schedule=None)
    assert f"removed drift/{NAME}, which params.yaml does not ask for" in project.mmlop("deploy").stdout
    assert [one.entrypoint for one in deployments(prefect_server)] == ["pipelines/retrain.py:retrain"]


def test_a_mistake_is_one_sentence_and_a_failed_run(project: Project, prefect_server: str) -> None:
    shutil.rmtree(project.folder / "log")
    done = project.run("python", "-m", "pipelines.drift", NAME, check=False)
    assert done.returncode == 1
    assert "Error: There is no prediction log at" in done.stdout
    assert "Traceback" not in done.stdout
    assert runs(prefect_server, "drift")[0].state.name == "Failed"
