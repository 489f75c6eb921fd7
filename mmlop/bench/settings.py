"""What ``mmlop bench`` is asked to measure. No torch here: the measuring process stays small."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mmlop.errors import MmlopError, listing

PARTS = ("step", "text", "evaluation", "decoding")
PRECISIONS = ("fp32", "bf16", "fp16")
NAMES = 1000  # ImageNet's class names
MANY = 500  # classes from which on a reference step takes most of a minute: fewer runs
RUNS_OF_MANY = 3


@dataclass(frozen=True)
class Settings:
    classes: tuple[int, ...] = (50, 500, 1000)
    precisions: tuple[str, ...] = ()  # () is fp32, and bf16 where the device computes in it
    parts: tuple[str, ...] = PARTS
    batch: int = 4
    evaluation_batch: int = 32
    runs: int = 5
    device: str = "cpu"
    architecture: str = "ViT-B-16-quickgelu"
    memory: float | None = None  # GB that a process may take; None is what is free

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise MmlopError(f"mmlop bench has no part '{part}': choose among {listing(PARTS, part)}.")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise MmlopError(f"Precision '{precision}' is unknown: choose among {listing(PRECISIONS, precision)}.")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):  # others would need a way to wait for them
            raise MmlopError(f"mmlop bench cannot time device '{self.device}': choose --device cpu, cuda or e.g. cuda:1.")
        for count in self.classes:
            if not 2 <= count <= NAMES:
                raise MmlopError(f"--classes holds {count}, but there are 2 to {NAMES} of ImageNet's class names to take.")
        for name, number in {"batch": self.batch, "runs": self.runs, "memory": self.memory or 1}.items():
            if number <= 0:
                raise MmlopError(f"--{name} is {number}: give a number greater than 0.")

    def quick(self) -> Settings:
        """The same on a small scale, for a first impression."""
        parts = tuple(part for part in self.parts if part != "evaluation") or self.parts
        return replace(
            self, classes=(20,), precisions=self.precisions[:1] or ("fp32",), parts=parts, runs=2, evaluation_batch=4
        )

    def runs_at(self, classes: int) -> int:
        return self.runs if classes < MANY else min(self.runs, RUNS_OF_MANY)


@dataclass(frozen=True)
class Work:
    """One thing to measure; it travels to a process of its own."""

    kind: str  # step, text, encode, matmul or decode
    side: str  # ours or reference; for encode: unprompted, prompted or open_clip
    precision: str = "fp32"
    classes: int = 0
    batch: int = 0
    cached: bool = False  # the frozen image features are given
    device: str = "cpu"
    architecture: str = ""

    @property
    def recorded(self) -> bool:
        """Whether it runs as a CUDA graph, as training does."""
        return self.side == "ours" and self.kind in ("step", "text") and self.device.startswith("cuda")
