"""The project under DVC, as flows use it: in processes of its own, which end with the flow that started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from mmlop import config
from mmlop.errors import MmlopError
from pipelines.processes import ended_with_us

BUSY = ("is busy", "Unable to acquire lock")


class Busy(MmlopError):
    """Another DVC process works on the same files: worth another try."""


def repro(*arguments: str, root: Path | None = None, fds: Sequence[int] = ()) -> bool:
    """`dvc repro`, shown line by line; whether a stage ran. Raises MmlopError with the sentence of what failed."""
    return "Running stage" in run("repro", *arguments, root=root, fds=fds, show=True)


def changes(stage: str, root: Path | None = None) -> dict[str, str]:
    """What changed since the stage last ran: {"data/parts": "modified", ...}, nothing if it is up to date."""
    said = run("status", "--json", stage, root=root)
    entries = json.loads(next((line for line in said.splitlines() if line.startswith("{")), "{}"))
    found: dict[str, str] = {}
    for entry in entries.get(stage, []):
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
    from dvc.config import Config

    return bool(Config(str((root or config.root()) / ".dvc")).read()["core"].get("remote"))


def push(*targets: str) -> None:
    """Put what stages made into the remote. Raises MmlopError with the sentence of what failed."""
    run("push", *targets)


def pull(*targets: str, root: Path | None = None) -> None:
    """Get what stages made from the remote, also where half of it is there already. Raises MmlopError."""
    run("pull", "--force", *targets, root=root)


def share(stage: str, root: Path) -> None:
    """Push what a stage made, and that it did, so that `dvc repro --pull` in any clone restores it without running it.

    `dvc push --run-cache` would not do: it leaves out the results that git keeps (`cache: false`), and DVC itself notes
    nothing of a stage that has such results beside metrics and plots.

    Changes the current folder meanwhile. Raises MmlopError if the remote cannot be written to.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with chdir(root), Repo() as repo, repo.lock:
            (made,) = repo.stage.collect(stage)
            repo.stage_cache.save(made)
            for out in made.outs:
                out.use_cache = True  # in git's care or not
            for found in made.get_used_objs().values():
                if failed := repo.cloud.push(found).failed:
                    raise MmlopError(f"{len(failed)} files of {stage} could not be pushed to the DVC remote: push again.")
            repo.stage_cache.push(None)  # last, so that it never speaks of what is not there
    except LockError as error:
        raise Busy(
            f"the results of {stage} could not be pushed, since another DVC command works here ({error})."
        ) from error
    except (DvcException, OSError) as error:
        raise MmlopError(f"the results of {stage} could not be pushed to the DVC remote ({error}).") from error


def configure_as(original: Path, copy: Path) -> None:
    """Give a worktree the remotes, the credentials and the cache of the clone that it belongs to."""
    from dvc.config import Config

    settings = Config(str(original / ".dvc")).read()  # with absolute paths: relative ones would start somewhere else
    settings["cache"].setdefault("dir", str(original / ".dvc" / "cache"))
    with Config(str(copy / ".dvc")).edit("local") as copied:
        copied.update(settings)


def run(command: str, *arguments: str, root: Path | None = None, fds: Sequence[int] = (), show: bool = False) -> str:
    """A DVC command in the project ``root`` (None: the current one), which inherits the open files ``fds``; what it said.

    An exception here, the one of a cancelled flow for instance, ends the command and the stages it started.

    Raises MmlopError, Busy if it was in the way of another.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", command, *arguments],
        cwd=root or config.root(),
        env={**os.environ, **config.this_python()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that it can be ended together with the stages it started
        pass_fds=fds,
    )
    assert process.stdout is not None
    said: list[str] = []
    with ended_with_us(process):
        for line in process.stdout:
            said.append(line)
            if show:
                print(line, end="", flush=True)
        process.wait()
    if process.returncode:
        lines = [line.strip() for line in said if line.strip()]
        error = next((line for line in lines if line.startswith("Error:")), " ".join(lines[-2:]))
        busy = any(line.startswith("ERROR:") and sign in line for line in lines for sign in BUSY)
        raise (Busy if busy else MmlopError)(f"dvc {' '.join((command, *arguments))} failed: {error}")
    return "".join(said)
