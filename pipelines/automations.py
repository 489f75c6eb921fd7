"""Prefect automations: a dead run is noticed, a dead retraining starts again, and somebody is told what matters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from mmlop.errors import MmlopError

NOTIFY = "MMLOP_NOTIFY_URL"  # of a webhook, which is a secret: from the environment alone
SILENCE = timedelta(seconds=100)  # after the last heartbeat, one every 30 s, until a run counts as dead
ENDS = ("Unchanged", "Kept", "Promoted", "Skipped", "Completed", "Failed", "Cancelled", "Crashed")


def deploy(retrain: str) -> list[str]:
    """Make the automations for the flow named ``retrain``, or bring them up to date; a line for each.

    Raises MmlopError if the address for notifications is none.
    """
    wanted = [_crashed((retrain, "train")), _restart(retrain)]
    url = os.environ.get(NOTIFY, "").strip()
    if url:
        wanted.append(_notify(retrain, url))
    with get_client(sync_client=True) as client:
        for automation in wanted:
            if known := client.read_automations_by_name(automation.name):
                client.update_automation(known[0].id, automation)
            else:
                client.create_automation(automation)
        if not url:  # nobody should go on being told once the address is gone
            for known_one in client.read_automations_by_name(_name("notify")):
                client.delete_automation(known_one.id)
    done = [f"automation '{automation.name}'" for automation in wanted]
    return done if url else [*done, f"no notifications ({NOTIFY} is not set)"]


def _name(what: str) -> str:
    return f"mmlop: {what}"


def _runs(flows: Sequence[str], events: Iterable[str], **more: Any) -> EventTrigger:
    """A trigger that looks at each run of some flows by itself."""
    return EventTrigger.model_validate(
        {
            "expect": [f"prefect.flow-run.{event}" for event in events],
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
            "for_each": ["prefect.resource.id"],
            "posture": "Reactive",
            "threshold": 1,
            "within": timedelta(0),
        }
        | more
    )


def _become(**state: str) -> ChangeFlowRunState:
    return ChangeFlowRunState.model_validate(state)


def _crashed(flows: Sequence[str]) -> AutomationCore:
    silent = {"after": ["prefect.flow-run.heartbeat"], "posture": "Proactive", "within": SILENCE}
    return AutomationCore(
        name=_name("crashed"),
        description="A run whose heartbeats stopped is dead: its process or its machine was killed.",
        trigger=_runs(flows, ("heartbeat", *ENDS), **silent),
        actions=[_become(state="CRASHED", message=f"No heartbeat for {SILENCE.total_seconds():.0f} s.")],
    )


def _restart(retrain: str) -> AutomationCore:
    again = _become(state="SCHEDULED", name="AwaitingRetry", message="Started again after a crash.")
    return AutomationCore(
        name=_name("restart"),
        description="A dead retraining starts again, as often as retrain.restarts in params.yaml says.",
        trigger=_runs([retrain], ["Crashed"]),
        actions=[again],
    )


def _notify(retrain: str, url: str) -> AutomationCore:
    """Posts {"text": ...}, which Slack, Mattermost and many others take."""
    if not url.startswith(("http://", "https://")):
        raise MmlopError(f"{NOTIFY} is no address of a webhook: it has to start with https:// or http://.")
    block: Any = CustomWebhookNotificationBlock
    webhook = block(name="mmlop", url=url, json_data={"text": "{{subject}}\n{{body}}"})
    tell = SendNotification(
        block_document_id=webhook.save("mmlop-notify", overwrite=True),
        subject="{{ flow_run.name }}: {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}",
    )
    return AutomationCore(
        name=_name("notify"),
        description="Promotions and failures are told to a webhook.",
        trigger=_runs([retrain], ["Promoted", "Failed", "Crashed"]),
        actions=[tell],
    )
