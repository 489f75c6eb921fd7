"""A training that another clone asked for: what it needs is pulled from the DVC remote, what it makes is pushed there.

It happens in a git worktree of the clone that does it, under .mmlop/work/<dataset>: the commit, the params and the data are
the asking clone's, whatever is checked out here, and several trainings can use one clone. Whatever ends a training early
leaves the worktree with its checkpoints, from which the next attempt at the same order goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlop import config
from mmlop.errors import MmlopError
from pipelines import stage, turns, workspace

PATIENCE = 10.0  # seconds for a server to answer
# Dask's nanny sets these to 1, for arithmetic in its own threads. Of a training, train.threads decides.
DASKS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Order:
    """What a clone elsewhere has to know to train a data set as it would have been trained here."""

    dataset: str
    commit: str  # of the code
    params: str  # text of params.yaml
    lock: str  # text of dvc.lock, as far as it is about this data set: which data to pull
    mlflow: str  # the servers that all clones share
    prefect: str


def clone() -> Path:
    """The clone that this process works for others in: MMLOP_PROJECT, or the one around the current folder."""
    return Path(os.environ.get("MMLOP_PROJECT") or config.root()).resolve()


def here() -> str:
    return f"{socket.gethostname()}:{clone()}"


def state(mlflow: str, prefect: str, dask_worker: Any) -> tuple[str, dict[str, float]]:
    """Of a Dask worker, asked there: what keeps it from training for others ("": nothing), and the resources it offers."""
    return trouble(mlflow, prefect), dict(dask_worker.state.total_resources)


def trouble(mlflow: str, prefect: str) -> str:
    """What keeps this process from training for others, as part of a sentence; "" if nothing does."""
    folder = clone()
    if not (folder / ".git").exists() or not (folder / ".dvc").is_dir():
        return f"{here()} is no clone of the project: start it in one, or name one in MMLOP_PROJECT"
    if not workspace.has_remote(folder):
        return f"{here()} has no DVC remote: `dvc remote add --default --local NAME URL` there, with the one you use"
    for name, url in (("MLflow", mlflow), ("Prefect", prefect)):
        if why := _unanswered(f"{url.rstrip('/')}/health"):
            return f"{socket.gethostname()} cannot reach the {name} server at {url} ({why})"
    return ""


def _unanswered(url: str) -> str:
    try:
        urllib.request.urlopen(url, timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:  # somebody answers, unless it is a gateway that finds nobody
        return f"its gateway answers {error.code}" if error.code in (502, 503, 504) else ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


def train(order: Order) -> str:
    """Carry out an order in a process of its own, which ends with this one, even where this one is killed.

    Returns where that was. Raises MmlopError that names the place.
    """
    stage.hide_mistakes()
    shared = {"MLFLOW_TRACKING_URI": order.mlflow, "PREFECT_API_URL": order.prefect}
    data = {"MMLOP_DATA": os.environ.get("MMLOP_DATA") or str(clone() / ".mmlop" / "data")}
    inherited = {name: value for name, value in os.environ.items() if name not in DASKS}
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.elsewhere", order.dataset],
        cwd=clone(),
        env=inherited | shared | data,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        with suppress(BrokenPipeError):  # it ended before: what it said and its exit code tell why
            child.stdin.write(json.dumps(asdict(order)) + "\n")
            child.stdin.flush()  # and left open: the child ends when it is closed, by whatever closes it
        said = child.stderr.read()
        with suppress(BrokenPipeError):  # once more, of what is left to write
            child.stdin.close()
    print(said, end="", file=sys.stderr, flush=True)
    if child.returncode:
        lines = said.strip().splitlines() or [f"it ended with exit code {child.returncode}"]
        raise MmlopError(f"{order.dataset} could not be trained by {here()}: {lines[-1].removeprefix('Error: ')}")
    return here()


def carry_out(order: Order) -> None:
    """Train in a worktree and share the results. Raises MmlopError with what went wrong."""
    if why := trouble(order.mlflow, order.prefect):
        raise MmlopError(f"{why}.")
    training, needed = f"train@{order.dataset}", (f"fetch@{order.dataset}", f"split@{order.dataset}")
    work = clone() / ".mmlop" / "work" / order.dataset
    with turns.alone(work.with_name(f"{order.dataset}.lock"), f"training of {order.dataset} for others") as held:
        _prepare(work, order)
        workspace.pull(*needed, root=work)
        # The lock is held until the training has ended, even where this process is killed.
        workspace.repro("--pull", "--single-item", training, root=work, fds=[held])
        workspace.share(training, work)
        _remove(work)


def _prepare(work: Path, order: Order) -> None:
    """The worktree of an order; the one of an earlier attempt at the same order as it is."""
    wanted = {name: value for name, value in asdict(order).items() if name not in ("mlflow", "prefect")}
    note = work.with_name(f"{order.dataset}.json")
    if note.is_file() and json.loads(note.read_text()) == wanted:
        return
    _remove(work)
    _require(order.commit)
    _git("worktree", "add", "--quiet", "--force", "--detach", str(work), order.commit)
    (work / "params.yaml").write_text(order.params, encoding="utf-8")
    (work / "dvc.lock").write_text(order.lock, encoding="utf-8")
    workspace.configure_as(clone(), work)
    note.write_text(json.dumps(wanted))  # last: until here there is nothing to go on from


def _remove(work: Path) -> None:
    work.with_name(f"{work.name}.json").unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    _git("worktree", "prune")


def _require(commit: str) -> None:
    known = ("cat-file", "-e", f"{commit}^{{commit}}")
    if _git(*known, check=False):
        return
    _git("fetch", "--quiet", "--all", check=False)
    if not _git(*known, check=False):
        raise MmlopError(
            f"commit {commit[:10]} is neither in {clone()} nor where it fetches from: `git push` it there, then ask again."
        )


def _git(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["git", *arguments], cwd=clone(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if check and done.returncode:
        said = " ".join(done.stderr.split())
        raise MmlopError(f"`git {' '.join(arguments)}` failed in {clone()}: {said}")
    return done.returncode == 0


def _end_with_the_asker() -> None:
    """Standard input is closed once nobody waits for the result: end, and what was started here with it."""

    def wait() -> None:
        sys.stdin.read()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, on which workspace.run ends what it runs
    threading.Thread(target=wait, daemon=True).start()


def main(dataset: str) -> None:
    """The process of one order, which comes by standard input; ``dataset`` is for those who look at processes and times."""
    order = Order(**json.loads(sys.stdin.readline()))
    _end_with_the_asker()
    carry_out(order)


if __name__ == "__main__":
    stage.run("elsewhere", main)
