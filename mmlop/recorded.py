"""A function of tensors as a CUDA graph: launching the 2 400 kernels of a training step one by one takes several times as
long as running them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[..., dict[str, Tensor]]


class Recorded:
    """``step(*tensors)``, run as it is the first time, recorded the second, and replayed ever after.

    It must do the same work every time on tensors of the same shapes, wait for nothing, and leave its results in tensors:
    those it returns, and gradients of leaves, which go on living in the same memory.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device, self._calls = step, device, 0

    def __call__(self, *tensors: Tensor) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls == 1:  # libraries set themselves up, which cannot be recorded
            return self._step(*tensors)
        with torch.cuda.device(self._device):  # graphs are made on the current device, whichever the tensors are on
            if self._calls == 2:
                self._record(tensors)
            for mine, new in zip(self._inputs, tensors, strict=True):
                mine.copy_(new)
            self._graph.replay()
            return {name: value.clone() for name, value in self._results.items()}

    def _record(self, tensors: tuple[Tensor, ...]) -> None:
        self._inputs = [tensor.clone() for tensor in tensors]
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # as torch asks for before a recording
            for _ in range(2):
                self._step(*self._inputs)
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Only this thread is recorded: another one may be preparing pictures.
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
            self._results = self._step(*self._inputs)
