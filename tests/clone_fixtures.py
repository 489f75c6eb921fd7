"""A small project with short training, and real servers for it; a plugin (``pytest_plugins = ["clone_fixtures"]``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clone import Project

from pipelines import server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server for the session, with a database of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    patch.delenv("PREFECT_API_URL", raising=False)
    with server.running() as url:
        yield url
    patch.undo()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two data sets with few pictures, two seeds, two epochs; not yet run."""
    project = Project(tmp_path_factory.mktemp("small"))
    project.edit(
        datasets=["mini_digits", "mini_textures"],
        data__per_class={"train": 4, "val": 4, "test": 4},
        fewshot__shots=2,
        fewshot__seeds=[1, 2],
        train__epochs=2,
    )
    project.commit()
    return project


@pytest.fixture(scope="session")
def repro(small: Project, prefect_server: str) -> Project:
    """The small project after `dvc repro`."""
    done = small.run("dvc", "repro")
    assert "Running stage 'report'" in done.stdout
    small.commit()
    return small
