"""Processes at the same time, as tasks or machines would work on one store; a module of helpers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Everything is imported once and then forked, so that the processes reach the store in the same moment.
PUBLISH = """
import multiprocessing, sys
from pathlib import Path
from mmlop import backbone, champion, registry, store, tracking

def publish(name):
    barrier.wait(60)
    return registry.publish(Path("runs") / name, {}).sentence

store.mlflow()
fork = multiprocessing.get_context("fork")
names = sys.argv[1:]
barrier = fork.Barrier(len(names))
with fork.Pool(len(names)) as pool:
    for sentence in pool.map(publish, names, chunksize=1):
        print(sentence)
"""
FLOW = """
import sys
from prefect import flow, task

@task
def double(number):
    return 2 * number

@flow(name="doubling")
def doubling(start):
    return [future.result() for future in double.map(range(start, start + 5))]

assert doubling(int(sys.argv[1])) == [2 * (int(sys.argv[1]) + i) for i in range(5)]
"""


def python(*arguments: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """This interpreter with the checkout's own code, started in ``folder``."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    """What a process said that ended well and without a warning."""
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert not errors, errors
    return output


def publish_together(root: Path, datasets: Sequence[str], **environment: str) -> list[str]:
    """Publish ``runs/<dataset>/`` of every data set at once, each in a process of its own; their sentences."""
    return said(python("-c", PUBLISH, *datasets, folder=root, **environment)).splitlines()


def flow_together(api: str, folder: Path, flows: int = 8) -> None:
    """So many runs of a flow of five tasks at once; all have to be known as completed to the server at ``api``."""
    (folder / "doubling.py").write_text(FLOW)
    settings = {"PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "ERROR"}
    before = {kind: Counter(states(api, kind)) for kind in ("flow_runs", "task_runs")}
    started = [python("doubling.py", str(number), folder=folder, **settings) for number in range(flows)]
    assert [said(process) for process in started] == [""] * flows
    wanted = {"flow_runs": Counter(COMPLETED=flows), "task_runs": Counter(COMPLETED=5 * flows)}
    deadline = time.monotonic() + 60
    while (found := {kind: Counter(states(api, kind)) - before[kind] for kind in wanted}) != wanted:
        assert time.monotonic() < deadline, found  # states of tasks reach the database a little later
        time.sleep(0.5)


def states(api: str, kind: str) -> list[str]:
    return [run["state"]["type"] for run in ask(api, f"{kind}/filter", {})]


def ask(api: str, path: str, body: Any) -> Any:
    """POST to a Prefect server."""
    request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
