"""What a method leaves behind, whatever its kind: the shape of its factors, and the encoders with them in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmlop import lora, prompts
from mmlop.backbone import Backbone
from mmlop.encode import Deltas, Packing, encode_image
from mmlop.features import frozen_text, prompted_text, prompted_tokens, template_tokens
from mmlop.lora import LoraShape
from mmlop.losses import correct_drift, unit
from mmlop.probe import ProbeShape
from mmlop.prompts import Factors, PromptShape
from mmlop.tip import CacheShape


@dataclass(frozen=True)
class NoShape:
    """Nothing is learned: the frozen CLIP."""

    kind: Literal["none"] = "none"

    @property
    def factors(self) -> dict[str, tuple[int, ...]]:
        return {}

    @property
    def trainable(self) -> int:
        return 0


Trainable = PromptShape | LoraShape  # learned by gradient
Shape = Trainable | CacheShape | ProbeShape | NoShape


def initialise(shape: Trainable, words: Tensor | None, generator: torch.Generator) -> Factors:
    """Fresh factors; see the kinds' own functions."""
    if isinstance(shape, LoraShape):
        return lora.initialise(shape, generator)
    return prompts.initialise(shape, words, generator)


def texts_of(
    backbone: Backbone, shape: Shape, class_names: Sequence[str], template: str, keep: bool = True
) -> Packing | Tensor:
    """What a method reads of each class: tokens behind the prompts, the tokens of the data set's template under deltas, and
    where the text encoder stays as it is, the template's finished features [C, d]. ``keep``: see `frozen_text`."""
    if isinstance(shape, PromptShape) and shape.encoders != "vision":
        return Packing(prompted_tokens(backbone, class_names, shape.tokens), shape.tokens)
    if isinstance(shape, LoraShape):
        return Packing(template_tokens(backbone, class_names, template), 0)
    return frozen_text(backbone, class_names, [template], keep)


@dataclass(frozen=True)
class Tuned:
    """The encoders with what was learned in place. One that has neither prompts nor deltas is the frozen encoder."""

    vision_prompts: Tensor | None = None  # [..., J, n, d_v]
    text_prompts: Tensor | None = None  # [..., J, n, d_t]
    vision_deltas: Deltas | None = None
    text_deltas: Deltas | None = None

    @property
    def sees(self) -> bool:
        """Whether pictures are encoded otherwise than by the frozen CLIP."""
        return self.vision_prompts is not None or self.vision_deltas is not None

    def images(self, backbone: Backbone, pictures: Tensor) -> Tensor:
        """f' [S * B, d], unit length, of prepared uint8 pictures [S * B, 3, H, W], each set of factors for B in a row."""
        prompts = self.vision_prompts
        if prompts is not None and prompts.dim() == 4:
            prompts = prompts.repeat_interleave(len(pictures) // len(prompts), dim=0)  # [S * B, J, n, d_v]
        return unit(encode_image(backbone, backbone.normalise(pictures), prompts, self.vision_deltas))

    def texts(self, backbone: Backbone, texts: Packing | Tensor, anchors: Tensor, drift_correction: bool) -> Tensor:
        """w* [..., C, d] of `texts_of` these classes, with the ``anchors`` [C, d] that drift is measured from."""
        if isinstance(texts, Packing):
            return prompted_text(backbone, texts, self.text_prompts, anchors, drift_correction, self.text_deltas)
        return correct_drift(texts, anchors) if drift_correction else texts


def tuned(shape: Shape, factors: Factors) -> Tuned:
    """The encoders with ``factors``, which may carry a leading dimension (several adapters at once)."""
    if isinstance(shape, PromptShape):
        vision, text = prompts.compose(factors)
        return Tuned(vision_prompts=vision, text_prompts=text)
    if isinstance(shape, LoraShape):
        vision_deltas, text_deltas = lora.deltas(factors, shape)
        return Tuned(vision_deltas=vision_deltas, text_deltas=text_deltas)
    return Tuned()
