"""Deep prompts, as points in one family: which encoders are prompted, and how the prompts are parameterised.

For each of the first ``J`` blocks, ``n`` prompt tokens enter an encoder: ``P_v[l]`` [n, d_v] the image encoder, ``P_t[l]``
[n, d_t] the text encoder, l = 0 .. J-1. Their *form* says what is learned:

    full        P_v[l], P_t[l]                                           CoOp, VPT, IVLP, PromptSRC
    low_rank    P_v[l] = U_v[l] @ V_v[l],  P_t[l] = U_t[l] @ V_t[l]      [n, r] @ [r, d]
    shared      P_v[l] = U[l] @ V_v[l],    P_t[l] = U[l] @ V_t[l]        MMLoP (arXiv 2602.21397)
    coupled     P_v[l] = P_t[l] @ W[l]^T + b[l]                          MaPLe (arXiv 2210.03117)

``U[l]``, the shared up-projection, is one factor for both encoders, so that a token's mixing coefficients are learned
from the image and from the text gradient together.

The factors are a plain dictionary of tensors: what is trained, what is saved, and what these functions take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmlop.errors import MmlopError

Factors = dict[str, Tensor]
Encoders = Literal["both", "vision", "text"]
Form = Literal["full", "low_rank", "shared", "coupled"]


@dataclass(frozen=True)
class PromptShape:
    """How many numbers are learned, and where they enter."""

    depth: int  # J: the first J blocks are prompted
    tokens: int  # n: prompt tokens per block
    rank: int | None  # r: rank of each block's prompts; None where they are not factored
    vision_width: int  # d_v
    text_width: int  # d_t
    form: Form = "shared"
    encoders: Encoders = "both"
    kind: Literal["prompts"] = "prompts"

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise MmlopError(f"prompts.depth is {self.depth}: it must be at least 1 block.")
        if self.tokens < 1:
            raise MmlopError(f"prompts.tokens is {self.tokens}: at least 1 prompt token is needed.")
        if self.factored != (self.rank is not None):
            raise MmlopError(
                f"prompts.rank is {self.rank}, but prompts.form is {self.form}: forms low_rank and shared have a rank, "
                f"others none."
            )
        if self.rank is not None and not 1 <= self.rank <= self.tokens:
            raise MmlopError(
                f"prompts.rank is {self.rank}, but {self.tokens} prompt tokens have rank 1 to {self.tokens}: "
                f"lower prompts.rank or raise prompts.tokens."
            )
        if self.form in ("shared", "coupled") and self.encoders != "both":
            raise MmlopError(
                f"prompts.form is {self.form}, which ties the two encoders together, but prompts.encoders is "
                f"{self.encoders}: choose both, or form full or low_rank."
            )

    @property
    def factored(self) -> bool:
        return self.form in ("low_rank", "shared")

    @property
    def factors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every factor."""
        widths = {"vision": self.vision_width, "text": self.text_width}
        if self.form == "coupled":
            return {
                "P_text": (self.depth, self.tokens, self.text_width),
                "W": (self.depth, self.vision_width, self.text_width),
                "b": (self.depth, self.vision_width),
            }
        if self.encoders != "both":
            widths = {self.encoders: widths[self.encoders]}
        if self.rank is None:
            return {f"P_{encoder}": (self.depth, self.tokens, width) for encoder, width in widths.items()}
        up, down = (self.depth, self.tokens, self.rank), (self.depth, self.rank)
        ups: dict[str, tuple[int, ...]] = {"U": up} if self.form == "shared" else {f"U_{encoder}": up for encoder in widths}
        return ups | {f"V_{encoder}": (*down, width) for encoder, width in widths.items()}

    @property
    def trainable(self) -> int:
        """The number of trained numbers; ``J * (n*r + r*(d_v + d_t))`` with a shared U."""
        return sum(math.prod(shape) for shape in self.factors.values())


def initialise(shape: PromptShape, words: Tensor | None, generator: torch.Generator) -> Factors:
    """Fresh factors: ``U ~ N(0, 1/r)``, ``V, P ~ N(0, 0.02^2)``, ``W, b`` uniform in +-1/sqrt(d_t) as a linear layer's, and
    layer 0 of the text prompts from ``words``.

    ``words`` are the token embeddings of the template before ``{}`` ([m, d_t]; "a photo of a" in most). The last n rows
    (a shorter template is padded with what the random factors give), or the best rank-r approximation of them, are
    P_t[0], so that training starts near a prompt CLIP knows. None leaves layer 0 random.
    """
    factors = {name: _draw(shape, name, size, generator) for name, size in shape.factors.items()}
    if words is None or not len(words) or shape.encoders == "vision":
        return factors
    known = words[-shape.tokens :].float().cpu()
    if shape.rank is None:
        factors["P_text"][0, : len(known)] = known
        return factors
    up = "U" if shape.form == "shared" else "U_text"
    target = factors[up][0] @ factors["V_text"][0]  # [n, d_t]
    target[: len(known)] = known
    left, strength, right = torch.linalg.svd(target, full_matrices=False)
    r, root_n = shape.rank, math.sqrt(shape.tokens)
    # U keeps the size it has elsewhere (rows of unit length), since the image prompts are multiplied by it too.
    factors[up][0] = left[:, :r] * root_n / math.sqrt(r)
    factors["V_text"][0] = strength[:r, None] * right[:r] * math.sqrt(r) / root_n
    return factors


def _draw(shape: PromptShape, name: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name in ("W", "b"):  # as its authors' code, MaPLe starts with the same map in all blocks but the first
        first, others = (2 * torch.rand(2, *size[1:], generator=generator) - 1) / math.sqrt(shape.text_width)
        return torch.stack([first, *[others] * (shape.depth - 1)])
    spread = 1 / math.sqrt(shape.rank) if name.startswith("U") and shape.rank else 0.02
    return torch.randn(size, generator=generator) * spread


def compose(factors: Factors) -> tuple[Tensor | None, Tensor | None]:
    """The prompts of both encoders, ``P_v [..., J, n, d_v]`` and ``P_t [..., J, n, d_t]``; None for one without.

    Factors may carry the same leading dimensions (several adapters at once); so do the prompts.
    """
    if "W" in factors:
        text = factors["P_text"]
        return text @ factors["W"].mT + factors["b"].unsqueeze(-2), text
    return _prompts(factors, "vision"), _prompts(factors, "text")


def _prompts(factors: Factors, encoder: str) -> Tensor | None:
    if f"V_{encoder}" in factors:
        return (factors["U"] if "U" in factors else factors[f"U_{encoder}"]) @ factors[f"V_{encoder}"]
    return factors.get(f"P_{encoder}")
