"""How a stage starts: one argument at most, a user's mistake as one sentence, wall time and memory noted outside DVC."""

from __future__ import annotations

import inspect
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from filelock import FileLock

from mmlop import config
from mmlop.errors import MmlopError
from mmlop.files import write_json

K = TypeVar("K")


def run(stage: str, main: Callable[..., None]) -> None:
    """Call ``main`` with the command line's arguments; exit 1 with a sentence on a MmlopError."""
    form, level = "%(asctime)s %(levelname)s %(message)s", os.environ.get("MMLOP_LOG_LEVEL", "INFO")
    logging.basicConfig(level=level, format=form, datefmt="%H:%M:%S", handlers=[Stderr()], force=True)
    for chatty in ("httpx", "alembic", "prefect", "mlflow", "matplotlib", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    hide_mistakes()
    started = time.monotonic()
    arguments = sys.argv[1:]
    wanted = list(inspect.signature(main).parameters)
    if len(arguments) != len(wanted):
        print(f"Error: usage: python -m pipelines.{stage} {' '.join(wanted).upper()}".rstrip(), file=sys.stderr)
        raise SystemExit(2)
    try:
        main(*arguments)
    except MmlopError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    try:
        note_timing("@".join([stage, *arguments]), time.monotonic() - started)
    except (OSError, ValueError) as error:  # not worth failing a finished stage
        logging.warning("reports/timings.json could not be written: %s", error)


class Stderr(logging.StreamHandler[Any]):
    """To what standard error is now: above the bar while one is shown, and never to one closed since."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # not setStream: it flushes the old one
        super().emit(record)


def hide_mistakes() -> None:
    """Keep the tracebacks of users' mistakes out of Prefect's logs."""
    for runs in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(runs).addFilter(without_users_mistakes)


def without_users_mistakes(record: logging.LogRecord) -> bool:
    """Prefect logs each failure with its traceback; a MmlopError is shown as its sentence, once, at the end."""
    raised = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    failed = record.getMessage().startswith("Finished in state Failed") and MmlopError.__name__ in record.getMessage()
    return not failed and not isinstance(raised, MmlopError)


def gather(futures: Mapping[K, Any]) -> dict[K, Any]:
    """The results of submitted tasks, once all have ended.

    Failures are raised together: users' mistakes as one MmlopError (each sentence once), others as an ExceptionGroup.
    """
    results = {key: future.result(raise_on_failure=False) for key, future in futures.items()}
    failures = [result for result in results.values() if isinstance(result, Exception)]
    if unexpected := [failure for failure in failures if not isinstance(failure, MmlopError)]:
        raise ExceptionGroup(f"{len(unexpected)} of {len(futures)} tasks failed", unexpected)
    if failures:
        raise MmlopError(" ".join(dict.fromkeys(map(str, failures))))
    return results


def note_timing(stage: str, seconds: float) -> None:
    """Put a stage's wall time and peak memory into reports/timings.json."""
    file = config.root() / "reports" / "timings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # data sets may be trained side by side
        known = json.loads(file.read_text()) if file.exists() else {}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        known[stage] = {"seconds": round(seconds, 2), "peak_mb": round(peak)}
        write_json(file, known)
