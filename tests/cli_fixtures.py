"""The command line as a function of its arguments; a plugin (``pytest_plugins = ["cli_fixtures"]``)."""

from __future__ import annotations

import sys

import pytest
from said import Run, Said

from mmlop import cli


@pytest.fixture
def mmlop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the entry point with arguments."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["mmlop", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            cli.main()
        return Said(int(exited.value.code or 0), *capsys.readouterr())

    return run
