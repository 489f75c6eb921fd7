"""Unit features of class texts and pictures, frozen or prompted: what losses, scores and predictions are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mmlop.backbone import Backbone
from mmlop.encode import Packing, encode_image, encode_text
from mmlop.losses import correct_drift, unit

CHUNK = 256  # texts or pictures per forward pass without gradients

# What a process has computed of each backbone: features by (class name, templates). They are frozen, so once is enough.
_frozen: WeakKeyDictionary[Backbone, dict[tuple[str, tuple[str, ...]], Tensor]] = WeakKeyDictionary()


def spoken(class_name: str) -> str:
    """A class name as it is put into a text: underscores are spaces, as in CoOp."""
    return class_name.replace("_", " ")


@torch.no_grad()
def frozen_text(backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """w [C, d]: each class's frozen text features, averaged over the templates and normalised again.

    Several templates give the anchor; a data set's own template alone gives the zero-shot classifier.
    """
    known = _frozen.setdefault(backbone, {})
    key = tuple(templates)
    names = [spoken(name) for name in class_names]
    new = list(dict.fromkeys(name for name in names if (name, key) not in known))
    texts = [template.replace("{}", name) for name in new for template in templates]
    chunks = [encode_text(backbone, backbone.tokenize(texts[i : i + CHUNK])) for i in range(0, len(texts), CHUNK)]
    if new:
        features = unit(torch.cat(chunks)).view(len(new), len(templates), -1)  # [new, templates, d]
        known |= {(name, key): feature for name, feature in zip(new, unit(features.mean(dim=1)), strict=True)}
    return torch.stack([known[name, key] for name in names])


def prompted_tokens(backbone: Backbone, class_names: Sequence[str], prompts: int) -> Tensor:
    """Token rows [C, L] of the prompted text, ``name .``, checked to leave room for ``prompts`` tokens."""
    return backbone.tokenize([f"{spoken(name)}." for name in class_names], prompts)


def prompted_text(
    backbone: Backbone, tokens: Tensor | Packing, prompts: Tensor, frozen: Tensor, drift_correction: bool = True
) -> Tensor:
    """w* [..., C, d]: prompted text features of ``tokens`` [C, L] (or their packing) under ``prompts`` [..., J, n, d_t],
    corrected for what moved all of them alike away from the ``frozen`` anchors [C, d]."""
    features = unit(encode_text(backbone, tokens, prompts))
    return correct_drift(features, frozen) if drift_correction else features


@torch.no_grad()
def image_features(backbone: Backbone, pictures: Tensor | Iterable[Tensor], prompts: Tensor | None = None) -> Tensor:
    """f' (or f without prompts) [N, d] of prepared uint8 pictures, [N, 3, S, S] or batches of such."""
    batches = pictures.split(CHUNK) if isinstance(pictures, Tensor) else pictures
    found = [unit(encode_image(backbone, backbone.normalise(batch), prompts)) for batch in batches]
    return torch.cat(found) if found else torch.empty(0, backbone.embed_dim)
