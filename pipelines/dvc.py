"""DVC as flows use it: in processes of its own, which end with the flow that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlop import config
from mmlop.errors import MmlopError

BUSY = ("is busy", "Unable to acquire lock")


class Busy(MmlopError):
    """Another DVC process works on the same files: worth another try."""


def repro(*arguments: str, root: Path | None = None, fds: Sequence[int] = (), **environment: str) -> bool:
    """`dvc repro`; whether a stage ran. Raises MmlopError with the sentence of what failed."""
    said = run("repro", *arguments, root=root, fds=fds, environment=environment)
    print(said, end="", flush=True)
    return "Running stage" in said


def changes(stage: str, root: Path | None = None) -> dict[str, str]:
    """What changed since the stage last ran: {"data/parts": "modified", ...}, nothing if it is up to date."""
    said = run("status", "--json", "--quiet", stage, root=root)
    found: dict[str, str] = {}
    for entry in json.loads(said.strip().splitlines()[-1] if said.strip() else "{}").get(stage, []):
        found |= _changes(entry)
    return found


def _changes(entry: Any) -> dict[str, str]:
    if isinstance(entry, str):  # "changed command"
        return {entry: "modified"}
    flat: dict[str, str] = {}
    for kind, what in entry.items():
        for name, state in what.items() if isinstance(what, Mapping) else ():
            flat |= {f"{name}:{key}": s for key, s in state.items()} if isinstance(state, Mapping) else {name: state}
        if not isinstance(what, Mapping):
            flat[kind] = str(what)
    return flat


def has_remote(root: Path | None = None) -> bool:
    """Whether a default remote is configured, through which clones share data and results."""
    return bool(run("config", "--quiet", "core.remote", root=root, check=False).strip())


def run(
    command: str,
    *arguments: str,
    root: Path | None = None,
    check: bool = True,
    fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    """A DVC command in the project ``root`` (None: the current one), which inherits the open files ``fds``; what it said.

    An exception here, the one of a cancelled flow for instance, ends the command and the stages it started.

    Raises MmlopError, Busy if it was in the way of another.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", command, *arguments],
        cwd=root or config.root(),
        env={**os.environ, **config.this_python(), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that it can be ended together with the stages it started
        pass_fds=fds,
    )
    try:
        said: str = process.communicate()[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if check and process.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        error = next((line for line in lines if line.startswith("Error:")), " ".join(lines[-2:]))
        kind = Busy if any(sign in said for sign in BUSY) else MmlopError
        raise kind(f"dvc {' '.join((command, *arguments))} failed: {error}")
    return said
