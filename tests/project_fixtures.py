"""Fixtures of a project with results on disk and a store; a plugin (``pytest_plugins = ["project_fixtures"]``)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from make_run import make_data, save_backbone

from mmlop import store


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: making one takes seconds."""
    root = tmp_path_factory.mktemp("database")
    (root / "params.yaml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store.connect()
    return root / "mlflow.db"


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, which is the current one, without a store."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text("datasets: [toy]\nbackbone: mini\nprofiles: {mini: {architecture: mini}}\n")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def project(empty_project: Path, database: Path) -> Path:
    """A project with an initialised, empty store and the data set `toy`."""
    shutil.copy(database, empty_project)
    make_data(empty_project, "toy")
    return empty_project
