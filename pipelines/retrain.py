"""Retraining of a data set, as a schedule starts it: `python -m pipelines.retrain DATASET` does the same by hand.

Pictures are looked through again, DVC is asked what changed, and what did is trained; the champion rule decides. A run ends
as `Unchanged`, `Kept` (the challenger was not better) or `Promoted`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from mmlop import config, registry, retraining, tracking
from mmlop.data.mini import benchmark
from mmlop.errors import MmlopError
from mmlop.schedules import Retrain
from pipelines import server, signals, stage, turns, workspace

logger = logging.getLogger("pipelines.retrain")  # whatever name Prefect loads this file under

LATE = timedelta(minutes=15)  # after which a run counts as missed, where those are not caught up on
ALIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED]
PAUSES: list[float] = [5, 30, 60, 300, 600]  # seconds between tries while MLflow is away or DVC is busy


def worth_waiting(task: Any, run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), tracking.TrackingUnavailable | workspace.Busy)


patient = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(PAUSES),
    retry_delay_seconds=PAUSES,
    retry_condition_fn=worth_waiting,
)


@patient
def begin(dataset: str) -> retraining.Standing:
    return retraining.begin(dataset)


@patient
def refresh(dataset: str, lock: int) -> None:
    """Fetch again, since DVC does not look outside the project, and draw the shots of what was found."""
    again = [] if dataset in benchmark.TASKS else ["--force"]
    workspace.repro("--quiet", *again, "--single-item", f"fetch@{dataset}", fds=[lock])
    workspace.repro("--quiet", "--single-item", f"split@{dataset}", fds=[lock])


@patient
def train(dataset: str, lock: int) -> dict[str, str]:
    """Train if DVC says that something changed; what that was. With a DVC remote, what another clone has trained from the
    same data, code and params comes from there."""
    changes = workspace.changes(f"train@{dataset}")
    if changes:
        logger.info("%s: training, since %s", dataset, retraining.shown(changes))
        pulled = ["--pull"] if workspace.has_remote() else []
        workspace.repro("--quiet", *pulled, "--single-item", f"train@{dataset}", fds=[lock])
    return changes


@patient
def share(dataset: str) -> None:
    """Push what is trained, also what an earlier run could not push."""
    workspace.share(f"train@{dataset}", config.root())


@patient
def conclude(dataset: str, before: retraining.Standing) -> retraining.Result:
    """See to it that MLflow has everything, also what it could not be told earlier, and record the outcome there."""
    flow_run_id = str(flow_run.get_id() or "")
    lineage = tracking.lineage() | {"flow_run_id": flow_run_id}
    published = registry.publish(config.root() / "runs" / dataset, lineage)
    return retraining.finish(dataset, before, {"flow_run": flow_run_id}, published.decision)


@patient
def forget(dataset: str) -> None:
    retraining.forget(dataset)


@flow(
    name="retrain",
    flow_run_name="retrain-{dataset}",
    on_completion=[signals.sign_off],
    on_failure=[signals.sign_off],
    on_cancellation=[signals.sign_off],
)
def retrain(dataset: str) -> State[Any]:
    """Bring the champion of a data set up to date. Ends with the outcome as the name of its state."""
    stage.hide_mistakes()
    try:
        outcome, message = work(dataset)
    except MmlopError as error:
        return Failed(message=str(error))
    return Completed(name=outcome.capitalize(), message=message)


def work(dataset: str) -> tuple[str, str]:
    """The outcome of a run, and a sentence about it. Raises MmlopError."""
    params = config.load()
    if reason := not_now(params.retrain):
        return "skipped", f"{dataset}: {reason}"
    if dataset not in params.datasets:
        raise MmlopError(f"'{dataset}' is not among `datasets` in params.yaml any more: run `mmlop deploy` again.")
    with turns.alone(config.root() / ".mmlop" / f"retrain-{dataset}.lock", f"retraining of {dataset}") as lock:
        before = begin(dataset)
        try:
            refresh(dataset, lock)
        except MmlopError:
            forget(dataset)  # what is registered until the next try is not of this run
            raise
        changes = train(dataset, lock)
        if workspace.has_remote():
            share(dataset)
        result = conclude(dataset, before)
        show(dataset, result, changes)
        forget(dataset)  # last: until here another run can go on
    return result.outcome, result.sentence


def show(dataset: str, result: retraining.Result, changes: dict[str, str]) -> None:
    """The outcome beside the flow run. It is in MLflow already, so a server that went away costs no more than this."""
    told = retraining.markdown(dataset, result, changes)
    try:
        create_markdown_artifact(told, f"retrain-{dataset.replace('_', '-')}", result.sentence)
    except Exception as error:
        logger.warning("%s: Prefect could not keep the outcome (%s)", dataset, error)


def not_now(settings: Retrain) -> str | None:
    """Why a run of a deployment should not work: a newer one makes it superfluous, or it died too often. None: it should.

    Raises MmlopError where dying again and again needs a person.
    """
    if not (deployed := deployment.id):
        return None
    if flow_run.run_count > settings.restarts + 1:
        raise MmlopError(
            f"This run died {flow_run.run_count - 1} times, more than retrain.restarts allows: look at the worker's log "
            f"(out of memory?), then start a new one."
        )
    due, now = flow_run.scheduled_start_time, datetime.now(UTC)
    if settings.catch_up == "none" and flow_run.run_count == 1 and now - due > LATE:
        return f"it was due at {due:%Y-%m-%d %H:%M} UTC, and missed runs are not caught up on."
    if settings.catch_up == "latest" and _newer(deployed, due, now):
        return "a newer run makes up for this one."
    return None


def _newer(deployed: Any, due: datetime, now: datetime) -> bool:
    """Whether a run that was due later is waiting, at work or done: those that wait are not taken up in order."""
    wanted = {
        "deployment_id": {"any_": [deployed]},
        "state": {"type": {"any_": ALIVE}},
        "expected_start_time": {"after_": due + timedelta(seconds=1), "before_": now},
    }
    with get_client(sync_client=True) as client:
        return bool(client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=1))


def main(dataset: str) -> None:
    with server.running():
        state = retrain(dataset, return_state=True)
    if state.is_failed():
        raise MmlopError(state.message)
    print(state.message)


if __name__ == "__main__":
    stage.run("retrain", main)
