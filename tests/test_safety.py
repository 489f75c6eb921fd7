"""Nothing leaves this machine unasked: no reports to the makers of tools, no open ports, no secrets in messages."""

from __future__ import annotations

import http.server
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clone import ROOT, Project
from mlflow import MlflowClient
from said import Run, error

from mmlop import privacy, store

pytest_plugins = ["cli_fixtures", "project_fixtures"]

# Notes every address that a Python process looks up, connects or sends to: as `sitecustomize`, in all of them.
LISTENER = """
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        where = arguments[1][0] if isinstance(arguments[1], tuple) else None  # None: a socket of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        where = arguments[0]
    else:
        return
    if where:
        with open(os.environ["TALKED"], "a") as file:
            print(where.decode() if isinstance(where, bytes) else where, ascii(sys.orig_argv[1:]), sep="\\t", file=file)

sys.addaudithook(note)
"""
# By which tools notice tests and CI, where they send nothing anyway, and the project's own settings.
CI = {"CI", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TRAVIS", "BUILDKITE", *privacy.OFF}


class Talk:
    """Runs commands as a user at a terminal would, and knows whom they talked to."""

    def __init__(self, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(LISTENER)
        self.folder, self.file = folder, folder / "talked"

    def run(self, *command: str, cwd: Path, code: Path = ROOT) -> str:
        environment = {key: value for key, value in os.environ.items() if key not in CI | {"PREFECT_API_URL", "DVC_ROOT"}}
        environment |= {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(code), str(self.folder)]),
            "TALKED": str(self.file),
            "HOME": str(self.folder),  # of somebody new
            "PREFECT_HOME": str(self.folder / "prefect"),
        }
        terminal, inner = pty.openpty()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=inner, stdout=inner, stderr=inner)
        os.close(inner)
        said = b""
        while chunk := _read(terminal):
            said += chunk
        os.close(terminal)
        assert process.wait() == 0, said.decode()
        return said.decode()

    def outside(self) -> set[str]:
        """Whom they talked to outside of this machine."""
        assert self.file.exists(), "nothing was noted at all: is the listener in place?"
        lines = set(self.file.read_text().splitlines())
        return {line for line in lines if line.split("\t")[0] not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "")}


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side was closed by the last process
        return b""


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    folder = tmp_path / "somebody"
    folder.mkdir()
    return Talk(folder)


def test_the_listener_hears(talk: Talk) -> None:
    ask = "import socket\ntry: socket.getaddrinfo('example.org', 443)\nexcept OSError: pass"
    talk.run(sys.executable, "-c", ask, cwd=talk.folder)
    assert [line.split("\t")[0] for line in talk.outside()] == ["example.org"]


@pytest.mark.slow
def test_the_pipeline_and_its_servers_call_nobody(talk: Talk, tmp_path: Path) -> None:
    """And system metrics, switched on, come from a real training into MLflow."""
    project = Project(tmp_path / "project")
    project.edit(
        datasets=["mini_digits"],
        data__per_class={"train": 3, "val": 2, "test": 2},
        fewshot={"shots": 2, "seeds": [1]},
        train__epochs=2,
        run__system_metrics=True,
    )
    project.commit()
    said = talk.run("python", "-m", "pipelines.server", "dvc", "repro", cwd=project.folder, code=project.folder)
    assert "Running stage 'report'" in said
    assert re.search(r"\d\d:\d\d:\d\d INFO mini_digits: registered as", said)
    for noise in ("Traceback", "usage data", "telemetry", "Warning"):
        assert noise not in said
    for command in (["registry", "list"], ["registry", "sync"], ["status"]):
        talk.run("python", "-m", "mmlop.cli", *command, cwd=project.folder / "data", code=project.folder)
    assert talk.outside() == set()

    uri = f"sqlite:///{project.folder / 'mlflow.db'}"
    client = MlflowClient(uri, registry_uri=uri)
    version = client.get_model_version_by_alias("mmlop-mini_digits", "champion")
    assert "system/cpu_utilization_percentage" in client.get_run(version.run_id).data.metrics


def test_a_server_reports_nothing_and_listens_here_only_wherever_it_is_started(talk: Talk, tmp_path: Path) -> None:
    """pyproject.toml, which is found in the project's folder only, is not enough."""
    look = (
        "import json, os, psutil, urllib.request\n"
        "settings = json.load(urllib.request.urlopen(os.environ['PREFECT_API_URL'] + '/admin/settings'))\n"
        "below = psutil.Process(os.getppid()).children(recursive=True)\n"
        "ports = [port for one in below for port in one.net_connections('inet') if port.status == 'LISTEN']\n"
        "print(json.dumps([settings['server']['analytics_enabled'], [port.laddr.ip for port in ports]]))"
    )
    said = talk.run(sys.executable, "-m", "pipelines.server", sys.executable, "-c", look, cwd=tmp_path)
    reports, addresses = json.loads(said.strip().splitlines()[-1])
    assert reports is False
    assert set(addresses) == {"127.0.0.1"}
    assert talk.outside() == set()


def test_what_the_environment_says_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED", raising=False)
    privacy.apply()
    assert {name: os.environ[name] for name in privacy.OFF} == {
        "DO_NOT_TRACK": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED")


def test_dvc_reports_nothing_and_looks_for_no_updates() -> None:
    for setting in ("core.analytics", "core.check_update"):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "config", "--project", setting], cwd=ROOT, capture_output=True, text=True
        )
        assert done.stdout.strip() == "false", setting


def test_no_secret_is_in_the_configuration() -> None:
    for name in ("params.yaml", "prefect.yaml", "dvc.yaml", ".dvc/config", "pyproject.toml", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert store.shown(text) == text, f"{name} has a URL with a password"
        assert not re.search(r"(?i)(password|secret|token|api_key|auth_string)\s*[:=]\s*[^\s#{$]", text), name


@pytest.fixture
def cutting_server() -> Iterator[str]:
    """Says that it is well, and hangs up on every other question."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self.send_response(200)
                self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.mark.parametrize("end", ["", "/"])
def test_messages_hide_passwords(
    mmlop: Run, project: Path, cutting_server: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:geheim@{cutting_server}{end}")
    said = error(mmlop("registry", "list"))
    assert f"http://ada:***@{cutting_server}" in said
    assert "geheim" not in said


def test_passwords_are_hidden_wherever_they_stand() -> None:
    for given, shown in {
        "postgresql+psycopg2://ada:p@ss/#1@db:5432/mlflow": "postgresql+psycopg2://ada:***@db:5432/mlflow",
        "from http://ada:one@here to https://eve:two@there": "from http://ada:***@here to https://eve:***@there",
        "http://127.0.0.1:5000/api": "http://127.0.0.1:5000/api",
        "sqlite:////home/ada/mlflow.db": "sqlite:////home/ada/mlflow.db",
        "http://ada@host:1": "http://ada@host:1",
    }.items():
        assert store.shown(given) == shown
