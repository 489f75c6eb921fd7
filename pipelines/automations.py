"""Prefect automations: a dead run is noticed, a dead retraining starts again, and somebody is told what matters."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.schemas.automations import AutomationCore

from mmlop.errors import MmlopError
from pipelines.signals import event

RETRAIN, TRAIN, DRIFT = "retrain", "train", "drift"  # flows
NOTIFY = "MMLOP_NOTIFY_URL"  # of a webhook, which is a secret: from the environment alone
HEARTBEAT = 30  # seconds, Prefect's least
SILENCE = timedelta(seconds=100)  # until a run counts as dead
PAUSE = timedelta(seconds=20)  # until it starts again, so that it is marked as crashed first
BLOCK = "mmlop-notify"
AUTOMATIONS = ("crashed", "restart", "notify", "notify of crashes")


def deploy(restarts: int) -> list[str]:
    """Make the automations, or bring them up to date; a line for each. Raises MmlopError if the address for notifications
    is none."""
    url = os.environ.get(NOTIFY, "").strip()
    if url and not url.startswith(("http://", "https://")):
        raise MmlopError(f"{NOTIFY} is no address of a webhook: it has to start with https:// or http://.")
    wanted = {"crashed": _crashed()} | ({"restart": _restart()} if restarts else {})
    if url:
        tell = [_message(_webhook(url))]
        wanted |= {"notify": _notify(tell), "notify of crashes": _notify_of_crashes(tell)}
    with get_client(sync_client=True) as client:
        for name in AUTOMATIONS:
            known = client.read_automations_by_name(f"mmlop: {name}")
            if name not in wanted:  # nobody should go on being told once the address is gone
                for one in known:
                    client.delete_automation(one.id)
                continue
            automation = AutomationCore.model_validate({"name": f"mmlop: {name}"} | wanted[name])
            if not known:
                client.create_automation(automation)
            elif AutomationCore.model_validate(known[0].model_dump()) != automation:  # forgets whose heart it heard
                client.update_automation(known[0].id, automation)
    if not url:
        _forget_webhook()
    done = [f"automation 'mmlop: {name}'" for name in wanted]
    return done if url else [*done, f"no notifications ({NOTIFY} is not set)"]


def _each_run(flows: list[str], **more: Any) -> dict[str, Any]:
    """A trigger that looks at each run of some flows by itself."""
    return {
        "type": "event",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": flows},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        **more,
    }


def _silent(flows: list[str], within: timedelta) -> dict[str, Any]:
    """Fires where no heartbeat follows one for so long, and no word of the end."""
    heartbeat = "prefect.flow-run.heartbeat"
    expected = [heartbeat, "prefect.flow-run.Cancelled", *(event(flow, "*") for flow in flows)]
    return _each_run(flows, after=[heartbeat], expect=expected, posture="Proactive", within=within)


def _crashed() -> dict[str, Any]:
    message = f"No heartbeat for {SILENCE.total_seconds():.0f} s: its process or its machine was killed."
    return {
        "description": "A run whose heartbeats stopped is dead.",
        "trigger": _silent([RETRAIN, TRAIN, DRIFT], SILENCE),
        "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "message": message}],
    }


def _restart() -> dict[str, Any]:
    again = {"type": "change-flow-run-state", "state": "SCHEDULED", "name": "AwaitingRetry", "message": "Started again."}
    return {
        "description": "A dead retraining starts again, as often as retrain.restarts in params.yaml says.",
        "trigger": _silent([RETRAIN], SILENCE + PAUSE),
        "actions": [again],
    }


def _notify(tell: list[dict[str, Any]]) -> dict[str, Any]:
    outcomes = [event(RETRAIN, outcome) for outcome in ("promoted", "failed")]
    outcomes += [event(DRIFT, outcome) for outcome in ("drifted", "failed")]
    return {
        "description": "Promotions, drift and failures are told to a webhook.",
        "trigger": _each_run([RETRAIN, DRIFT], expect=outcomes, posture="Reactive", within=timedelta(0)),
        "actions": tell,
    }


def _notify_of_crashes(tell: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "description": "Crashes of retrainings are told to a webhook.",
        "trigger": _silent([RETRAIN], SILENCE),
        "actions": tell,
    }


def _webhook(url: str) -> Any:
    """A block that posts {"text": ...}, which Slack, Mattermost and many others take. The address is kept as a secret."""
    webhook: Any = CustomWebhookNotificationBlock
    text = {"text": "{{subject}}\n{{body}}"}
    return webhook(name="mmlop", url="{{address}}", secrets={"address": url}, json_data=text).save(BLOCK, overwrite=True)


def _forget_webhook() -> None:
    block_type = CustomWebhookNotificationBlock.get_block_type_slug()
    with suppress(ValueError):  # there is none
        CustomWebhookNotificationBlock.delete(f"{block_type}/{BLOCK}")


def _message(block: Any) -> dict[str, Any]:
    return {
        "type": "send-notification",
        "block_document_id": str(block),
        "subject": "{{ flow_run.name }}: {{ event.payload.outcome or 'crashed' }}",
        "body": "{{ event.payload.message or 'Its heartbeats stopped.' }}",
    }
