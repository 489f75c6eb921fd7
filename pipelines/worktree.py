"""The project as it was at a commit, in a temporary git worktree with stores of its own, which go with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlop import config, privacy
from mmlop.data import public
from mmlop.errors import MmlopError
from pipelines.processes import ended_with_us

# What variables of these say is of this project, or of servers that others watch.
OTHERS = ("DVC_", "GIT_", "MLFLOW_", "MMLOP_", "PREFECT_")
NEEDED = ("params.yaml", "pipelines/train.py")


@dataclass(frozen=True)
class Worktree:
    folder: Path
    root: Path  # the project that it is of
    commit: str
    environment: Mapping[str, str]

    def python(self, *arguments: str) -> str:
        """Run this interpreter with the commit's code; what it prints. Its standard error is shown.

        An exception here, Ctrl-C for instance, ends what runs. Raises MmlopError with the sentence of what failed.
        """
        with tempfile.TemporaryFile("w+") as printed:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # so that it can be ended together with the processes it started
            )
            assert process.stderr is not None
            said: list[str] = []
            with ended_with_us(process):
                for line in process.stderr:
                    said.append(line.strip())
                    print(line, end="", file=sys.stderr, flush=True)
                process.wait()
            if process.returncode:
                lines = [line for line in said if line] or [f"exit code {process.returncode}"]
                error = next((line for line in lines if line.startswith("Error: ")), lines[-1])
                raise MmlopError(f"the code of commit {self.commit[:10]} says: {error.removeprefix('Error: ')}")
            printed.seek(0)
            return printed.read()


@contextmanager
def checked_out(commit: str, threads: int | None = None) -> Iterator[Worktree]:
    """The project at a commit for the block; arithmetic there takes so many ``threads``, where params.yaml does not say.

    Raises MmlopError if this clone does not have the commit.
    """
    root = config.root()
    inside = _git(root, "rev-parse", "--show-prefix")
    try:
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except MmlopError:
        raise MmlopError(f"commit {commit[:10]} is not in {root}: `git fetch` it from the clone that has it") from None
    home = Path(tempfile.mkdtemp(prefix="mmlop-worktree-")).resolve()
    whole = home / "project"
    with _ending_on_signals():
        try:
            # Without hooks: those of DVC would check out data.
            _git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", str(whole), commit)
            folder = whole / inside
            if missing := [name for name in NEEDED if not (folder / name).is_file()]:
                raise MmlopError(f"commit {commit[:10]} has no {missing[0]}")
            yield Worktree(folder, root, commit, _environment(home, folder, commit, threads))
        finally:
            with _undisturbed():
                _git(root, "worktree", "remove", "--force", "--force", str(whole), check=False)  # also one half made
                shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path, folder: Path, commit: str, threads: int | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        "TMPDIR": str(home),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        "DVC_EXP_BASELINE_REV": commit,  # as in DVC's experiments, whose adapters are not registered
        "PREFECT_HOME": str(home / "prefect"),
        "MMLOP_CACHE": str(home / "cache"),
        "MMLOP_DATA": str(public.home()),  # what was downloaded is the same for all
        "MMLOP_LOG_LEVEL": os.environ.get("MMLOP_LOG_LEVEL", "INFO"),
    }
    counted = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    return inherited | config.this_python() | privacy.OFF | own | counted


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """What would end this process at once raises SystemExit instead."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    with _handled((signal.SIGTERM, signal.SIGHUP), end):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    with _handled((signal.SIGTERM, signal.SIGHUP, signal.SIGINT), signal.SIG_IGN):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Any) -> Iterator[None]:
    """Signals reach the main thread alone, which alone may say what becomes of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def _git(root: Path, *arguments: str, check: bool = True) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise MmlopError(f"git cannot be run ({error})") from error
    if check and done.returncode:
        raise MmlopError(f"`git {' '.join(arguments)}` failed in {root}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
