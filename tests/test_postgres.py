"""MLflow and Prefect on Postgres, as for several machines: the whole path once, and eight writers at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clone import Project
from make_run import make_data, make_run
from mlflow_server import MlflowServer
from together import ask, flow_together, publish_together

from mmlop import registry, store, tracking
from mmlop.store import TrackingUnavailable
from pipelines import server

if TYPE_CHECKING:
    from postgres import Postgres

pytest_plugins = ["postgres", "project_fixtures"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mlflow_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    postgres.create("mlflow")
    started = MlflowServer(tmp_path_factory.mktemp("mlflow"), postgres.url("mlflow", "postgresql+psycopg2"))
    started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def prefect_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    postgres.create("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", postgres.url("prefect", "postgresql+asyncpg"))
        patch.delenv("PREFECT_API_URL", raising=False)
        with server.running() as url:
            patch.delenv("PREFECT_SERVER_DATABASE_CONNECTION_URL")  # the server's alone: no client needs it
            yield url


def test_the_whole_path(tmp_path: Path, postgres: Postgres, mlflow_server: MlflowServer, prefect_server: str) -> None:
    project = Project(tmp_path)
    project.edit(
        datasets=["mini_digits"],
        data__per_class={"train": 4, "val": 4, "test": 4},
        fewshot__shots=2,
        fewshot__seeds=[1],
        train__epochs=2,
    )
    project.commit()
    said = project.run("dvc", "repro", MLFLOW_TRACKING_URI=mlflow_server.url).stdout
    assert "registered as mmlop-mini_digits version 1" in said
    assert postgres.password not in said
    assert not (project.folder / "mlflow.db").exists()
    assert not list(project.folder.glob("ml[ar]*s"))  # adapters are the server's to keep, for other machines

    picture = next((project.folder / "data/mini_digits/test").rglob("*.png"))
    elsewhere = tmp_path / "another machine"
    elsewhere.mkdir()
    uri = "models:/mmlop-mini_digits@champion"
    cache = {"MMLOP_CACHE": str(elsewhere / "cache"), "MLFLOW_TRACKING_URI": mlflow_server.url}
    predict = ("env", "-C", str(elsewhere), "python", "-m", "mmlop.cli", "predict", uri, str(picture), "--json")
    assert json.loads(project.run(*predict, **cache).stdout)["path"] == str(picture)

    assert postgres.query("SELECT name, version FROM model_versions", "mlflow") == [("mmlop-mini_digits", 1)]
    flows = postgres.query("SELECT name, state_type::text FROM flow_run", "prefect")
    assert flows == [("train-mini_digits", "COMPLETED")]
    assert ask(prefect_server, "flow_runs/count", {}) == 1


def test_eight_publish_at_once(
    empty_project: Path, backbone: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"toy{number}" for number in range(8)]
    for seed, name in enumerate(names):
        make_data(empty_project, name)
        make_run(empty_project, name, backbone, seed)
    said = publish_together(empty_project, names, MLFLOW_TRACKING_URI=mlflow_server.url)
    assert [line.split(". ")[0] for line in said] == [f"{name}: registered as mmlop-{name} version 1" for name in names]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    client = store.connect()
    for name in names:
        assert [version.aliases for version in registry.versions(name)] == [("champion",)]
        experiment = client.get_experiment_by_name(f"mmlop-{name}").experiment_id
        runs = client.search_runs([experiment])
        assert [run.info.status for run in runs] == ["FINISHED"] * 3
        assert tracking.log_run(empty_project / "runs" / name, {}) in {run.info.run_id for run in runs}


def test_eight_flows_at_once(tmp_path: Path, prefect_server: str, postgres: Postgres) -> None:
    before = ask(prefect_server, "flow_runs/count", {})
    flow_together(prefect_server, tmp_path)
    assert postgres.query("SELECT count(*) FROM flow_run", "prefect") == [(before + 8,)]


def test_postgres_goes_down_under_the_mlflow_server(
    empty_project: Path,
    backbone: Path,
    postgres: Postgres,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_data(empty_project, "outage")
    folder = make_run(empty_project, "outage", backbone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    monkeypatch.setattr(store, "PAUSES", ())
    postgres.stop()
    try:
        with pytest.raises(TrackingUnavailable, match="`mmlop registry sync`") as caught:
            registry.publish(folder, {})
    finally:
        postgres.start()
    assert postgres.password not in str(caught.value)
    assert [one.sentence.split(". ")[0] for one in registry.sync(empty_project)] == [
        "outage: registered as mmlop-outage version 1"
    ]
