"""Values that are read again when they have become old, while everybody goes on with the old ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Lock, Thread
from typing import Generic, TypeVar

from mmlop.serving.found import UnknownAdapter
from mmlop.store import TrackingUnavailable

logger = logging.getLogger(__name__)

PATIENCE = 0.5  # seconds that whoever finds a value old waits for the new one

T = TypeVar("T")


class Fresh(Generic[T]):
    """What ``read`` gives, read again at most every ``seconds``, by one thread at a time.

    The first to ask wait for it. Later it is read in the background: who finds it old waits for PATIENCE at most, so that
    even a rare request sees what is new where reading is fast, and everybody else goes on with the old value. So they do
    where it cannot be read; but an UnknownAdapter is taken for the truth.
    """

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read, self._seconds = read, seconds
        self._lock = Lock()
        self._due = -float("inf")
        self._reading: Future[None] | None = None
        self._known: list[T] = []  # the value, or nothing
        self._error: Exception | None = None  # of the last reading

    def get(self) -> T:
        """The value. Raises what the last reading raised where nothing is known."""
        with self._lock:
            due = self._reading is None and time.monotonic() >= self._due
            if due:
                self._reading = Future()
                Thread(target=self._renew, args=(self._reading,), name="mmlop-fresh", daemon=True).start()
            reading, known = self._reading, bool(self._known)
        if reading is not None and (due or not known):
            wait([reading], PATIENCE if known else None)
        with self._lock:
            if self._known:
                return self._known[0]
            assert self._error is not None
            raise self._error

    def _renew(self, reading: Future[None]) -> None:
        known: list[T] = self._known
        error: Exception | None = None
        try:
            known = [self._read()]
        except UnknownAdapter as gone:
            known, error = [], gone
        except Exception as failure:
            error = failure
            if known and self._error is None and not isinstance(failure, TrackingUnavailable):  # logged by `Registered`
                logger.warning("%s What was known goes on being used.", failure)
        with self._lock:
            self._known, self._error = known, error
            self._due, self._reading = time.monotonic() + self._seconds, None
        reading.set_result(None)
