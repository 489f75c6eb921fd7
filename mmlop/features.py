"""Unit features of class texts and pictures, frozen or prompted: what losses, scores and predictions are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from mmlop import cache, mode
from mmlop.backbone import Backbone
from mmlop.encode import Deltas, Packing, encode_image, encode_text
from mmlop.losses import correct_drift, unit

CHUNK = 256  # texts or pictures per forward pass without gradients

# What a process has computed last of each backbone: features by (class names, templates). Whole sets, not single names: in
# which company a name is encoded decides its last bit, which should not depend on what was asked before.
_frozen: WeakKeyDictionary[Backbone, LRUCache[tuple[tuple[str, ...], tuple[str, ...]], Tensor]] = WeakKeyDictionary()
_lock = Lock()
SETS = 256


def spoken(class_name: str) -> str:
    """A class name as it is put into a text: underscores are spaces, as in CoOp."""
    return class_name.replace("_", " ")


@torch.no_grad()
def frozen_text(backbone: Backbone, class_names: Sequence[str], templates: Sequence[str], keep: bool = True) -> Tensor:
    """w [C, d]: each class's frozen text features, averaged over the templates and normalised again.

    Several templates give the anchor; a data set's own template alone gives the zero-shot classifier. Classes that will not
    be asked for again should not be kept on disk (``keep``).
    """
    names, templates = tuple(spoken(name) for name in class_names), tuple(templates)

    def compute() -> Tensor:  # [C, d]
        texts = [template.replace("{}", name) for name in names for template in templates]
        chunks = [encode_text(backbone, backbone.tokenize(texts[i : i + CHUNK])) for i in range(0, len(texts), CHUNK)]
        features = unit(torch.cat(chunks)).view(len(names), len(templates), -1)  # [C, templates, d]
        return unit(features.mean(dim=1))

    with _lock:
        found = _frozen.setdefault(backbone, LRUCache(SETS)).get((names, templates))
    if found is None:
        found = _kept(backbone, "texts", [names, templates], len(names), compute) if keep else compute()
        with _lock:
            _frozen[backbone][names, templates] = found
    return found.clone()


def frozen_images(backbone: Backbone, pictures: Tensor, contents: Sequence[str]) -> Tensor:
    """f [N, d] of prepared pictures [N, 3, S, S] with these content hashes, encoded once and for all."""
    return _kept(
        backbone, "images", [contents, pictures.shape[-1]], len(contents), lambda: image_features(backbone, pictures)
    )


def _kept(backbone: Backbone, kind: str, about: Any, count: int, compute: Callable[[], Tensor]) -> Tensor:
    """Frozen features from the cache, whose key is all they depend on: the model, how it computes, and ``about``."""
    wide = next(backbone.model.parameters()).dtype == torch.float64
    code = cache.sources("backbone.py", "encode.py", "features.py", "losses.py")
    key = [backbone.identity, mode.of(backbone), code, about]

    def fill(target: np.ndarray) -> None:
        target[:] = compute().cpu().numpy()

    dtype = "float64" if wide else "float32"
    return cache.tensor(kind, key, (count, backbone.embed_dim), dtype, fill).to(backbone.device)


def prompted_tokens(backbone: Backbone, class_names: Sequence[str], prompts: int) -> Tensor:
    """Token rows [C, L] of the prompted text, ``name .``, checked to leave room for ``prompts`` tokens."""
    return backbone.tokenize([f"{spoken(name)}." for name in class_names], prompts)


def template_tokens(backbone: Backbone, class_names: Sequence[str], template: str) -> Tensor:
    """Token rows [C, L] of each class's name in a template."""
    return backbone.tokenize([template.replace("{}", spoken(name)) for name in class_names])


def prompted_text(
    backbone: Backbone,
    tokens: Tensor | Packing,
    prompts: Tensor | None,
    frozen: Tensor,
    drift_correction: bool = True,
    deltas: Deltas | None = None,
) -> Tensor:
    """w* [..., C, d]: text features of ``tokens`` [C, L] (or their packing) under ``prompts`` [..., J, n, d_t] and
    ``deltas``, corrected for what moved all of them alike away from the ``frozen`` anchors [C, d]."""
    features = unit(encode_text(backbone, tokens, prompts, deltas))
    return correct_drift(features, frozen) if drift_correction else features


@torch.no_grad()
def image_features(backbone: Backbone, pictures: Tensor | Iterable[Tensor], prompts: Tensor | None = None) -> Tensor:
    """f' (or f without prompts) [N, d] of prepared uint8 pictures, [N, 3, S, S] or batches of such."""
    batches = pictures.split(CHUNK) if isinstance(pictures, Tensor) else pictures
    found = [unit(encode_image(backbone, backbone.normalise(batch), prompts)) for batch in batches]
    return torch.cat(found) if found else torch.empty(0, backbone.embed_dim)
