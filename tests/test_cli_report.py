"""`mmlop report` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_report import make_project

from mmlop import page

COMMAND = "import typer\nfrom mmlop.cli_report import report\ntyper.run(report)"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


def run(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, cwd=project, env=outer | {"COLUMNS": "200"} | variables, capture_output=True, text=True)


def test_it_shows_the_tables_and_where_the_page_is(project: Path) -> None:
    said = run(project)
    assert said.returncode == 0, said.stderr
    assert "zero-shot" in said.stdout
    assert "mini_digits" in said.stdout
    assert said.stdout.splitlines()[-1] == f"The whole report: {project / page.FILE}"
    assert (project / page.FILE).is_file()
    assert run(project, "--quiet").stdout == ""
    assert json.loads(run(project, "--json").stdout) == json.loads((project / "reports/summary.json").read_text())


def test_it_opens_the_page_in_the_browser_of_the_environment(project: Path) -> None:
    browser = project / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {project}/opened\n')
    browser.chmod(0o755)
    said = run(project, "--open", "--quiet", BROWSER=str(browser))
    assert said.returncode == 0, said.stderr
    assert (project / "opened").read_text().strip() == (project / page.FILE).as_uri()
