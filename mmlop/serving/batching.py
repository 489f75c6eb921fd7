"""Dynamic batching: what waits is computed together by one thread, and no one waits long for company."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")


class BatchFailed(Exception):
    """The computation of a batch failed, which the log tells with its traceback."""


class Batcher(Generic[In, Out]):
    """``submit(one)`` gives a future; a worker thread takes up to ``size`` of what waits and calls ``compute`` on it.

    While fewer wait, the oldest of them waits ``delay`` seconds at most for others to come. A future that is cancelled
    before its turn is left out. When ``compute`` raises, that is logged, its batch gets BatchFailed, and the worker
    goes on; an exception among its results goes to that one's future.
    """

    def __init__(
        self,
        compute: Callable[[list[In]], Sequence[Out | Exception]],
        size: int,
        delay: float,
        observe: Callable[[int, float], None] = lambda count, seconds: None,  # of every batch
    ) -> None:
        self._compute, self._size, self._delay, self._observe = compute, size, delay, observe
        self._waiting: deque[tuple[float, In, Future[Out]]] = deque()  # with when it came, seconds
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="mmlop-batches", daemon=True)
        self._thread.start()

    def submit(self, one: In) -> Future[Out]:
        future: Future[Out] = Future()
        with self._changed:
            if self._stopping:
                raise RuntimeError("the batcher was stopped")
            self._waiting.append((time.monotonic(), one, future))
            if len(self._waiting) in (1, self._size):  # all that the worker waits for
                self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout: float | None = None) -> None:
        """Take nothing more, compute what waits, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            wanted = [(one, future) for one, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._answer([one for one, _ in wanted], [future for _, future in wanted])

    def _next(self) -> list[tuple[In, Future[Out]]] | None:
        """The next batch; None once there is none to come."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            due = self._waiting[0][0] + self._delay
            while len(self._waiting) < self._size and not self._stopping and (left := due - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self._waiting.popleft()[1:] for _ in range(min(self._size, len(self._waiting)))]

    def _answer(self, ones: list[In], futures: list[Future[Out]]) -> None:
        started = time.monotonic()
        try:
            results = self._compute(ones)
            self._observe(len(ones), time.monotonic() - started)
            pairs = list(zip(futures, results, strict=True))
        except Exception as error:
            logger.exception("A batch of %d pictures failed", len(ones))
            for future in futures:
                future.set_exception(BatchFailed(str(error)))
            return
        for future, result in pairs:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
