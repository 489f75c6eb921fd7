"""Cross-entropy, self-regulating consistency, and uniform drift correction.

All features are unit vectors in fp32 (or fp64). f [B, d] and w [C, d] belong to the frozen CLIP, f' and w' to the
prompted one; tau is CLIP's logit scale. The consistency terms are those of PromptSRC (Khattak et al., ICCV 2023); the
cosine distance of texts is KgCoOp's (Yao et al., CVPR 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Consistency:
    """Weights of the consistency terms, published for d=512 and tau=100 (0 switches a term off)."""

    text: float = 25.0  # lambda_t
    image: float = 10.0  # lambda_v
    logits: float = 1.0  # lambda_l
    distance: Literal["l1", "cosine"] = "l1"  # of texts: mean|w* - w|, or mean over classes of 1 - w* . w

    def scaled_to(self, embed_dim: int, logit_scale: float) -> Consistency:
        """The same balance on another backbone: ``lambda_t`` and ``lambda_v`` times ``(tau / 100) * sqrt(d / 512)``.

        A feature that moves by a vector e changes ``mean|e|`` with a gradient of norm 1/sqrt(d), and the
        cross-entropy with one proportional to tau. The rule keeps the ratio of the two. A cosine's gradient does not
        depend on d, so its weight is multiplied by ``tau / 100`` alone. The KL term is made of the same logits as the
        cross-entropy and needs no scaling.
        """
        by_scale, by_both = logit_scale / 100, logit_scale / 100 * math.sqrt(embed_dim / 512)
        text = self.text * (by_both if self.distance == "l1" else by_scale)
        return Consistency(text, self.image * by_both, self.logits, self.distance)


def unit(features: Tensor) -> Tensor:
    """Features [..., d] as unit vectors, in fp32 at least."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


def correct_drift(prompted: Tensor, frozen: Tensor) -> Tensor:
    """Uniform drift correction: take what prompting did to *all* classes alike out of each class's text feature.

        delta = mean_c(w'_c - w_c),        w*_c = normalize(w'_c - delta)

    ``prompted`` and ``frozen`` are [..., C, d] over the class set in use, so scores depend on the candidate classes. A
    single class is returned as it is: delta would be its whole residual.
    """
    if prompted.shape[-2] == 1:
        return prompted
    return F.normalize(prompted - (prompted - frozen).mean(dim=-2, keepdim=True), dim=-1)


def kl_per_logit(frozen_logits: Tensor, logits: Tensor) -> Tensor:
    """``sum p (log p - log p') / (B * C)`` [...], p from the frozen logits [..., B, C]; divided by the number of logits as
    in PromptSRC."""
    p, q = F.log_softmax(frozen_logits, dim=-1), F.log_softmax(logits, dim=-1)
    return F.kl_div(q, p, reduction="none", log_target=True).mean(dim=(-2, -1))


def loss_terms(
    image: Tensor,  # f' [..., B, d]
    text: Tensor,  # w* [..., C, d]
    frozen_image: Tensor,  # f [..., B, d]
    frozen_text: Tensor,  # w [C, d]
    labels: Tensor,  # [..., B]
    logit_scale: float,  # tau
    weights: Consistency,
) -> dict[str, Tensor]:
    """The weighted terms and their sum, [...] each; leading dimensions are trainings side by side:

    loss = CE(p', y) + lambda_t * mean|w* - w| + lambda_v * mean|f' - f| + lambda_l * KL(p || p')

    with ``1 - w* . w`` in place of ``|w* - w|`` for the cosine distance.
    """
    logits = logit_scale * image @ text.mT  # [..., B, C]
    terms = {"ce": -F.log_softmax(logits, dim=-1).gather(-1, labels[..., None]).mean(dim=(-2, -1))}
    if weights.text:
        terms["text"] = weights.text * _text_distance(text, frozen_text, weights.distance)
    if weights.image:
        terms["image"] = weights.image * (image - frozen_image).abs().mean(dim=(-2, -1))
    if weights.logits:
        terms["kl"] = weights.logits * kl_per_logit(logit_scale * frozen_image @ frozen_text.T, logits)
    return {"loss": torch.stack(list(terms.values())).sum(dim=0), **terms}


def _text_distance(text: Tensor, frozen: Tensor, distance: str) -> Tensor:  # [..., C, d] -> [...]
    if distance == "cosine":
        return (1 - (text * frozen).sum(dim=-1)).mean(dim=-1)
    return (text - frozen).abs().mean(dim=(-2, -1))
