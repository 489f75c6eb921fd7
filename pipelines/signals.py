"""How a scheduled flow says that it has ended, whichever way, so that silence means death.

Prefect tells of state changes too, but in their order: where the event of an early state is missing, as with runs that were
put on the schedule minutes before, all later ones of that run reach automations a quarter of an hour late.
"""

from __future__ import annotations

from prefect.events import emit_event
from prefect.runtime import flow_run


def event(flow: str, outcome: str) -> str:
    """The name of the event of a flow's end; an asterisk as outcome means any."""
    return f"mmlop.{flow}.{outcome}"


def sign_off(outcome: str, message: str = "") -> None:
    """Say how the flow run around the call ended."""
    flow = str(flow_run.get_flow_name())
    emit_event(
        event(flow, outcome),
        resource={
            "prefect.resource.id": f"prefect.flow-run.{flow_run.get_id()}",
            "prefect.resource.name": str(flow_run.get_name()),
        },
        related=[
            {
                "prefect.resource.id": f"mmlop.flow.{flow}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": flow,
            }
        ],
        payload={"outcome": outcome, "message": message},
    )
