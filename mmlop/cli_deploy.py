"""The commands of scheduled retraining: `mmlop deploy`, `mmlop worker` and `mmlop retrain`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from mmlop.cli_output import Dataset, require_listed


def deploy(
    serve: Annotated[
        bool, typer.Option("--serve", help="Run the schedules in this process, on this machine, until Ctrl-C.")
    ] = False,
) -> None:
    """Put scheduled retraining (`retrain` in params.yaml) to work on the Prefect server.

    Runs are picked up by `mmlop worker`, here or on other machines, or with --serve by this process.
    """
    from mmlop import config
    from pipelines import deployment

    root, params = config.root(), config.load()
    with deployment.reachable():
        for line in deployment.prepare(params) if serve else deployment.deploy(root, params):
            typer.echo(line)
        if serve:
            deployment.serve(root, params)


def worker(
    limit: Annotated[int | None, typer.Option(min=1, help="Runs at once; as a rule `retrain.slots`.")] = None,
) -> None:
    """Work off scheduled retrainings in this clone, until Ctrl-C."""
    from mmlop import config
    from pipelines import deployment

    root = config.root()
    at_once = str(limit or config.load().retrain.slots)
    pool = deployment.pattern(root)["deployments"][0]["work_pool"]["name"]
    with deployment.reachable():
        pass
    environment = os.environ | config.this_python() | {"MMLOP_PROJECT": str(root)}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", at_once]
    os.execvpe(command[0], command, environment)


def retrain(dataset: Dataset) -> None:
    """What a scheduled run does, now: look through the data, train what changed, let the champion rule decide."""
    from mmlop import config

    require_listed(dataset)
    command = [sys.executable, "-m", "pipelines.retrain", dataset]
    if code := subprocess.run(command, cwd=config.root(), env=os.environ | config.this_python()).returncode:
        raise typer.Exit(code)
