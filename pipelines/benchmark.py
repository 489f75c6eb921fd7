"""All data sets, several at once: `python -m pipelines.benchmark`. DVC decides what has to run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from mmlop import config
from mmlop.errors import MmlopError
from pipelines import server, stage


def repro(*arguments: str) -> None:
    """`dvc repro` in a process of its own. Raises MmlopError with the last lines of what it said."""
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    done = subprocess.run(
        command,
        cwd=config.root(),
        env=os.environ | config.this_python(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()]
        error = next((line for line in said if line.startswith("Error:")), " ".join(said[-2:]))
        raise MmlopError(f"dvc repro {' '.join(arguments)} failed: {error}")


@task(task_run_name="train-{dataset}", cache_policy=NO_CACHE, persist_result=False)
def train(dataset: str) -> None:
    # This stage alone: several `dvc repro` that share an upstream stage would find it busy.
    repro("--single-item", f"train@{dataset}")


@flow(name="benchmark", validate_parameters=False)
def benchmark(datasets: tuple[str, ...]) -> None:
    """Fetch and split everything, train within the limit, report. Failures are collected and raised together."""
    repro("fetch", "split")
    futures = {dataset: train.with_options(tags=[dataset]).submit(dataset) for dataset in datasets}
    stage.gather(futures)
    repro("report")  # and what it needs beside: adapters of transfer sources, tested on their targets


def main() -> None:
    params = config.load()
    runner: Any = ThreadPoolTaskRunner(max_workers=params.run.concurrency)
    with server.running():
        benchmark.with_options(task_runner=runner)(params.datasets)


if __name__ == "__main__":
    stage.run("benchmark", main)
