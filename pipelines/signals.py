"""How a scheduled flow says that it has ended by itself, so that silence means death.

Prefect tells of state changes too, but in their order: where the event of an early state is missing, as with runs that were
put on the schedule minutes before, all later ones of that run reach automations a quarter of an hour late.
"""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event


def event(flow: str, outcome: str) -> str:
    """The name of the event of a flow's end; an asterisk as outcome means any."""
    return f"mmlop.{flow}.{outcome}"


def sign_off(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook for flows that complete, fail or are cancelled, which are then at rest. Not for those that crash: a process
    that is told to end, since its machine goes down, should start again like one that was killed."""
    emit_event(
        event(flow.name, state.name.lower()),
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        related=[
            {
                "prefect.resource.id": f"prefect.flow.{flow_run.flow_id}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": flow.name,
            }
        ],
        payload={"outcome": state.name.lower(), "message": state.message or ""},
    )
