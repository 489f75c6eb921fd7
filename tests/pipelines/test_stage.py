"""How stages log."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from pipelines import stage


def test_a_log_goes_on_though_standard_error_was_closed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, record = stage.Stderr(), logging.LogRecord("x", logging.WARNING, __file__, 1, "heard", None, None)
    before, now = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    monkeypatch.setattr(sys, "stderr", before)
    handler.handle(record)
    before.close()
    monkeypatch.setattr(sys, "stderr", now)
    handler.handle(record)
    assert now.getvalue() == "heard\n"
