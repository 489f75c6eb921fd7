"""Drift of a data set's champion, as a schedule looks for it: `python -m pipelines.drift DATASET` does the same by hand.

What was logged is compared with validation pictures. A run ends as `Steady`, `Drifted` or `TooFew`, and with
`drift.retrain` in params.yaml, drift starts a retraining.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow, get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed

from mmlop import config, drift_check, drift_report
from mmlop.drift_check import Check
from mmlop.errors import MmlopError
from pipelines import server, signals, stage
from pipelines.retrain import patient, retrain

logger = logging.getLogger("pipelines.drift")  # whatever name Prefect loads this file under

NAMES = {"steady": "Steady", "drifted": "Drifted", "too_few": "TooFew"}


@patient
def compare(dataset: str) -> Check:
    return drift_check.check(dataset, config.load())


@task(cache_policy=NO_CACHE, persist_result=False)
def report(check: Check) -> None:
    """In reports/drift/, and beside the flow run. A server that went away meanwhile costs no more than the latter."""
    drift_report.write(config.root(), check)
    try:
        create_markdown_artifact(drift_report.twin(check), f"drift-{check.dataset.replace('_', '-')}", check.sentence)
    except Exception as error:
        logger.warning("%s: Prefect could not keep the report (%s)", check.dataset, error)


@flow(
    name="drift",
    flow_run_name="drift-{dataset}",
    on_completion=[signals.sign_off],
    on_failure=[signals.sign_off],
    on_cancellation=[signals.sign_off],
)
def drift(dataset: str) -> State[Any]:
    """Look for drift of a data set's champion. Ends with what was found as the name of its state."""
    stage.hide_mistakes()
    try:
        check = compare(dataset)
        report(check)
        started = start_retraining(dataset) if check.found.outcome == "drifted" and config.load().drift.retrain else ""
    except MmlopError as error:
        return Failed(message=str(error))
    return Completed(name=NAMES[check.found.outcome], message=f"{check.sentence} {started}".rstrip())


def start_retraining(dataset: str) -> str:
    """As a run of the data set's deployment, for which nobody waits here, or where there is none, in this process; what was
    done. Raises MmlopError where it fails here."""
    name = f"retrain/{dataset}"
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            deployed = False
        else:
            deployed = True
    if deployed:
        run: Any = run_deployment(name, timeout=0, as_subflow=False)
        return f"A retraining is asked for: run {run.name} of {name}."
    ended: State[Any] = retrain(dataset, return_state=True)
    if not ended.is_completed():
        raise MmlopError(f"There is drift of {dataset}, and its retraining failed: {ended.message}")
    return f"It was trained again: {ended.message}"


def main(dataset: str) -> None:
    with server.running():
        state = drift(dataset, return_state=True)
    if not state.is_completed():
        raise MmlopError(str(state.message))
    print(state.message)


if __name__ == "__main__":
    stage.run("drift", main)
