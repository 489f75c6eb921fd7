"""Deep prompts for both encoders, built from low-rank factors.

For each of the first ``J`` blocks, ``n`` prompt tokens enter both encoders:

    P_v[l] = U[l] @ V_v[l]        [n, r] @ [r, d_v] -> [n, d_v]
    P_t[l] = U[l] @ V_t[l]        [n, r] @ [r, d_t] -> [n, d_t]        l = 0 .. J-1

``U[l]``, the shared up-projection, is one factor for both encoders, so that a token's mixing coefficients are learned
from the image and from the text gradient together (MMLoP, arXiv 2602.21397).

The factors are a plain dictionary of tensors: what is trained, what is saved, and what these functions take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlop.errors import MmlopError

Factors = dict[str, Tensor]


@dataclass(frozen=True)
class PromptShape:
    """How many numbers are learned, and where they enter."""

    depth: int  # J: the first J blocks of both encoders are prompted
    tokens: int  # n: prompt tokens per block
    rank: int  # r: rank of each block's prompts
    vision_width: int  # d_v
    text_width: int  # d_t
    shared: bool = True  # one U for both encoders; False is an ablation

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise MmlopError(f"prompts.depth is {self.depth}: it must be at least 1 block.")
        if self.tokens < 1:
            raise MmlopError(f"prompts.tokens is {self.tokens}: at least 1 prompt token is needed.")
        if not 1 <= self.rank <= self.tokens:
            raise MmlopError(
                f"prompts.rank is {self.rank}, but {self.tokens} prompt tokens have rank 1 to {self.tokens}: "
                f"lower prompts.rank or raise prompts.tokens."
            )

    @property
    def factors(self) -> dict[str, tuple[int, int, int]]:
        """Name and shape of every factor."""
        up, down = (self.depth, self.tokens, self.rank), (self.depth, self.rank)
        ups = {"U": up} if self.shared else {"U_vision": up, "U_text": up}
        return ups | {"V_vision": (*down, self.vision_width), "V_text": (*down, self.text_width)}

    @property
    def trainable(self) -> int:
        """The number of trained numbers: ``J * (n*r + r*(d_v + d_t))`` with a shared U."""
        return sum(math.prod(shape) for shape in self.factors.values())


def initialise(shape: PromptShape, words: Tensor | None, generator: torch.Generator) -> Factors:
    """Fresh factors: ``U ~ N(0, 1/r)``, ``V ~ N(0, 0.02^2)``, and layer 0 of the text prompt from ``words``.

    ``words`` are the token embeddings of the template before ``{}`` ([m, d_t]; "a photo of a" in most). The best
    rank-r approximation of its last n rows (a shorter template is padded with what the random factors give) fixes U[0]
    and V_text[0], so that training starts near a prompt CLIP knows. None leaves layer 0 random.
    """
    factors = {
        name: torch.randn(size, generator=generator) * (0.02 if name.startswith("V") else 1 / math.sqrt(shape.rank))
        for name, size in shape.factors.items()
    }
    if words is not None and len(words) > 0:
        up = "U" if shape.shared else "U_text"
        target = factors[up][0] @ factors["V_text"][0]  # [n, d_t]
        known = words[-shape.tokens :].float().cpu()
        target[: len(known)] = known
        left, strength, right = torch.linalg.svd(target, full_matrices=False)
        r, root_n = shape.rank, math.sqrt(shape.tokens)
        # U keeps the size it has elsewhere (rows of unit length), since the image prompts are multiplied by it too.
        factors[up][0] = left[:, :r] * root_n / math.sqrt(r)
        factors["V_text"][0] = strength[:r, None] * right[:r] * math.sqrt(r) / root_n
    return factors


def compose(factors: Factors) -> tuple[Tensor, Tensor]:
    """The prompts of both encoders: ``P_v [..., J, n, d_v]`` and ``P_t [..., J, n, d_t]``.

    Factors may carry the same leading dimensions (several adapters at once); so do the prompts.
    """
    up_vision = factors["U"] if "U" in factors else factors["U_vision"]
    up_text = factors["U"] if "U" in factors else factors["U_text"]
    return up_vision @ factors["V_vision"], up_text @ factors["V_text"]
