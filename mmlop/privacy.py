"""Nothing calls home: what tools report to their makers is off, unless the environment says otherwise."""

from __future__ import annotations

import os

OFF = {
    "DO_NOT_TRACK": "true",  # MLflow, Prefect's client, Hugging Face; the word, since MLflow takes no number
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # as pyproject.toml, which Prefect finds in the current folder only
}


def apply() -> None:
    """For this process and those it starts. Before Prefect is imported, which asks at once."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
