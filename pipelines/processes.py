"""Processes that start others: ended together."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ended_with_us(process: subprocess.Popen[Any]) -> Iterator[None]:
    """An exception in the block, Ctrl-C for instance, kills the process and those it started. It must lead a session of its
    own (``start_new_session=True``)."""
    try:
        yield
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
