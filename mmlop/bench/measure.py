"""Time and peak memory, each of a process of its own, with the runs of several processes interleaved."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

from mmlop.bench.settings import Work
from mmlop.errors import MmlopError

SHORTEST = 0.2  # seconds of a run
OUT_OF_MEMORY = "choose fewer --classes or a smaller --batch, or lower --memory"


@dataclass(frozen=True)
class Measured:
    """Of one ``Work``."""

    runs: tuple[float, ...]  # seconds
    peak: int  # bytes: of the process, or on CUDA of its tensors on the device
    flops: int  # of one run

    @property
    def seconds(self) -> float:
        return median(self.runs)

    @property
    def rate(self) -> float:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9


def interleaved(works: Sequence[Work], runs: int) -> list[Measured]:
    """Measure ``works`` in turns (first, second, ..., first, second, ...), each in a fresh process that is warmed up.

    What slows the machine down for a while then slows all of them down. Raises MmlopError where a process runs out of
    memory.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(started(work)) for work in works]
        turns = [[worker.ask("run") for worker in workers] for _ in range(runs)]
        return [
            Measured(tuple(seconds), worker.ask("peak"), worker.flops)
            for worker, seconds in zip(workers, zip(*turns, strict=True) if runs else [()] * len(works), strict=True)
        ]


def context() -> BaseContext:
    """How fresh processes are made: where the system can, by a server that has imported everything and run nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(["mmlop.bench.work"])
    return multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class _Worker:
    work: Work
    process: BaseProcess
    pipe: Connection
    flops: int = 0

    def ask(self, question: str | None = None) -> Any:
        """The answer to a question, or with None how the start went."""
        try:
            if question:
                self.pipe.send(question)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise MmlopError(
                f"The process measuring {self.work.side} ({self.work.kind}, {self.work.classes} classes) ended with code "
                f"{self.process.exitcode}, most likely for want of memory: {OUT_OF_MEMORY}."
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def started(work: Work) -> Iterator[_Worker]:
    """A worker that has done its untimed runs."""
    here, there = context().Pipe()
    process = context().Process(target=_serve, args=(work, there), daemon=True)  # type: ignore[attr-defined]
    process.start()
    there.close()
    try:
        flops = _Worker(work, process, here).ask()
        yield _Worker(work, process, here, flops)
    finally:
        here.close()  # ends its loop
        process.join(timeout=5)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(work: Work, pipe: Connection) -> None:
    """The worker's side: prepare, warm up, then answer questions until the other end closes."""
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    try:
        from mmlop.bench.work import prepare

        call = prepare(work)
        pipe.send(warm_up(call, work.device))
        while True:
            pipe.send(_timed(call, work.device) if pipe.recv() == "run" else _peak(work.device))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except MmlopError as error:
        pipe.send(error)
    except Exception as error:
        what = str(error)
        if isinstance(error, MemoryError) or "out of memory" in what or "allocate memory" in what:
            pipe.send(MmlopError(f"Measuring {work.side} at {work.classes} classes ran out of memory: {OUT_OF_MEMORY}."))
        else:
            pipe.send(RuntimeError(traceback.format_exc()))


def warm_up(call: Callable[[], object], device: str) -> int:
    """Run ``call`` until it does what it will always do, and count the floating-point operations of the first run.

    Libraries and the optimiser set themselves up in the first run; on CUDA ours is recorded in the second, so that the
    third is the first replay.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False, custom_mapping=_attention_flops()) as counter:
        call()
    for _ in range(2 if device.startswith("cuda") else 1):
        call()
    return int(counter.get_total_flops())


def _timed(call: Callable[[], object], device: str) -> float:
    """Seconds of one call; a quick one is repeated until the clock has something to measure."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    wait()
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < SHORTEST:
        call()
        wait()
        calls += 1
    return elapsed / calls


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had at the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _attention_flops() -> dict[Any, Any]:
    """The counter of torch does not know attention on a CPU."""
    import torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))

    return {attention: forward_flops, backward: backward_flops}
