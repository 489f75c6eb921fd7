"""CLIP-LoRA (Zanella and Ben Ayed, CVPRW 2024, arXiv 2405.18541): low-rank changes of the attention in both encoders.

In every block, the projections of queries, keys and values get a change of rank r:

    W' = W + alpha / sqrt(r) * B @ A        B [d, r], A [r, d]

The factors A and B are given to the encoders beside the frozen weights (`mmlop.encode.Deltas`); the model is never
patched. ``alpha / sqrt(r)`` is what the authors' code multiplies by (LoRA's own is ``alpha / r``).

The authors also drop a quarter of the inputs of A in training. That is left out on purpose: which inputs are dropped would
depend on what is trained together, and adapters trained together must come out as if they were trained alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from mmlop.encode import Deltas
from mmlop.errors import MmlopError
from mmlop.prompts import Factors

PROJECTIONS = 3  # queries, keys, values: in the order in which the encoders hold them


@dataclass(frozen=True)
class LoraShape:
    """How many numbers are learned, and where they are added."""

    rank: int  # r: rank of every change
    vision_layers: int  # L_v: all blocks of the image encoder
    text_layers: int  # L_t
    vision_width: int  # d_v
    text_width: int  # d_t
    alpha: float = 1.0  # the changes are multiplied by alpha / sqrt(r)
    kind: Literal["lora"] = "lora"

    def __post_init__(self) -> None:
        narrowest = min(self.vision_width, self.text_width)
        if not 1 <= self.rank <= narrowest:
            raise MmlopError(
                f"lora.rank is {self.rank}, but a matrix of width {narrowest} has rank 1 to {narrowest}: "
                f"choose lora.rank in this range."
            )
        if self.vision_layers < 1 or self.text_layers < 1:
            layers = f"lora.vision_layers is {self.vision_layers} and lora.text_layers {self.text_layers}"
            raise MmlopError(f"{layers}: each must be at least 1 block.")
        if not 0 < self.alpha < math.inf:
            raise MmlopError(f"lora.alpha is {self.alpha}: it must be a positive number.")

    @property
    def factors(self) -> dict[str, tuple[int, int, int, int]]:
        """Name and shape of every factor; the second dimension is that of the projections."""
        vision, text = (self.vision_layers, PROJECTIONS), (self.text_layers, PROJECTIONS)
        return {
            "A_vision": (*vision, self.rank, self.vision_width),
            "B_vision": (*vision, self.vision_width, self.rank),
            "A_text": (*text, self.rank, self.text_width),
            "B_text": (*text, self.text_width, self.rank),
        }

    @property
    def trainable(self) -> int:
        """The number of trained numbers: ``2 * r * 3 * (L_v * d_v + L_t * d_t)``."""
        return sum(math.prod(shape) for shape in self.factors.values())

    @property
    def scale(self) -> float:
        return self.alpha / math.sqrt(self.rank)


def initialise(shape: LoraShape, generator: torch.Generator) -> Factors:
    """Fresh factors: ``A ~ U(-1/sqrt(d), 1/sqrt(d))``, as a linear layer of torch starts, and ``B = 0``, so that training
    starts at the frozen CLIP."""
    return {
        name: (2 * torch.rand(size, generator=generator) - 1) / math.sqrt(size[-1])
        if name.startswith("A")
        else torch.zeros(size)
        for name, size in shape.factors.items()
    }


def deltas(factors: Factors, shape: LoraShape) -> tuple[Deltas, Deltas]:
    """What is added to the projections of the image encoder, and of the text encoder.

    Factors may carry the same leading dimension (several adapters at once); so do the deltas.
    """
    vision, text = (Deltas(factors[f"A_{side}"], factors[f"B_{side}"], shape.scale) for side in ("vision", "text"))
    return vision, text
