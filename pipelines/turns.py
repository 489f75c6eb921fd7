"""Who works when: one at a time on a data set, and no more trainings at once than there are slots."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmlop.errors import MmlopError

logger = logging.getLogger(__name__)

SLOT = "MMLOP_SLOT"  # names the Prefect concurrency limit of which every training holds a slot; unset: none
DEFAULT_SLOT = "mmlop-gpu"
LEASE = 60.0  # seconds after which the slot of a process that died is free again


@contextmanager
def alone(file: Path, what: str) -> Iterator[int]:
    """Hold the lock ``file`` for the block, after waiting for whoever holds it; yields its file descriptor.

    A process that inherits the descriptor goes on holding the lock if this one dies.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another %s to end (it holds %s)", what, file)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


@contextmanager
def slot() -> Iterator[None]:
    """Hold a slot of the limit in MMLOP_SLOT for the block, after waiting for one.

    Raises MmlopError if Prefect has no such limit: a training that ran all the same could share a GPU.
    """
    name = os.environ.get(SLOT)
    if not name:
        yield
        return
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    with ExitStack() as held:
        try:
            # A training outlives a Prefect server that goes away, so a lease that cannot be renewed ends nothing.
            held.enter_context(
                concurrency(name, occupy=1, strict=True, lease_duration=LEASE, raise_on_lease_renewal_failure=False)
            )
        except ConcurrencySlotAcquisitionError as error:
            raise MmlopError(
                f"Prefect gave no slot of the concurrency limit '{name}', which {SLOT} names ({error}): `mmlop deploy` "
                f"creates it; without {SLOT} none is needed."
            ) from error
        yield


def scheduled() -> bool:
    """Whether this process works for a deployment's run."""
    return SLOT in os.environ
