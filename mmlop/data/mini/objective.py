"""What mini-CLIP is trained to do, and how well it does it.

The contrastive loss of CLIP, plus a cross-entropy of the image feature against the names of all objects, colours and
textures. The names go through the text tower at each step, so what is learned stays a CLIP and nothing else.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from mmlop.data.mini import clip
from mmlop.data.mini.objects import OBJECTS
from mmlop.data.mini.surfaces import COLOURS, TEXTURES
from mmlop.data.mini.world import TEMPLATES, draw_batch

MAX_CAPTION = 24  # tokens of the longest caption, and
MAX_NAME = 12  # of the longest class name in a template: shorter than the context saves a third of the text tower's work
PARTS = ("contrast", "object", "colour", "texture")  # of the loss, as they are shown
FRESH_SEED = 999_983  # pictures for measuring; no run may train on them


class Words:
    """Tokenises texts into positions of mini-CLIP's small vocabulary, and remembers them."""

    def __init__(self) -> None:
        self.known = clip.vocabulary()
        self._tokenizer = clip.tokenizer()
        self._position = {token: index for index, token in enumerate(self.known)}

    def __call__(self, texts: list[str], length: int) -> Tensor:
        """Returns [len(texts), length], padded with 0. Order is kept, so end-of-text stays the largest id."""
        tokens = self._tokenizer(texts)
        if bool((tokens[:, length:] != 0).any()):
            raise ValueError(f"a text has more than {length} tokens: {max(texts, key=len)!r}")
        return torch.tensor([[self._position[token] for token in row] for row in tokens[:, :length].tolist()])


def class_names(noun: str) -> list[str]:
    """The 110 names that pictures are labelled with: objects, then colours and textures of the given noun."""
    return [*OBJECTS, *(f"{colour} {noun}" for colour in COLOURS), *(f"{texture} {noun}" for texture in TEXTURES)]


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """CLIP's own text encoder on fewer positions than its context: causal, so the features are the same.

    Args:
        tokens: [B, L] with L up to the context length.

    Returns:
        [B, embed_dim], unit length.
    """
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    pooled = hidden[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection
    return functional.normalize(pooled.float(), dim=-1)


def total_loss(
    model: CLIP,
    images: Tensor,
    captions: Tensor,
    names: Tensor,
    labels: Tensor,
    weights: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """The contrastive loss plus the weighted label losses.

    Captions that read the same are each other's positives: their pictures cannot be told apart by them.

    Args:
        images: [B, 3, SIDE, SIDE], normalised.
        captions: [B, MAX_CAPTION] tokens.
        names: [110, MAX_NAME] tokens of `class_names` in one template.
        labels: [B, 3]; an object label of -1 is left out.

    Returns:
        The loss, and [4] its parts for the log (contrastive, object, colour, texture), without gradient.
    """
    scale = model.logit_scale.exp()
    image = functional.normalize(model.encode_image(images).float(), dim=-1)  # [B, embed_dim]
    logits = scale * image @ encode_text(model, captions).T  # [B, B]
    same = (captions[:, None] == captions[None]).all(dim=-1).float()
    target = same / same.sum(dim=1, keepdim=True)
    parts = [(functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2]
    scores = scale * image @ encode_text(model, names).T  # [B, 110]
    for column, part in enumerate(scores.split([len(OBJECTS), len(COLOURS), len(TEXTURES)], dim=1)):
        parts.append(functional.cross_entropy(part, labels[:, column], ignore_index=-1))
    loss = parts[0] + sum(weight * part for weight, part in zip(weights, parts[1:], strict=True))
    return loss, torch.stack(parts).detach()


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Pictures as mini-CLIP's preprocessing would make them. [B, SIDE, SIDE, 3] bytes -> [B, 3, SIDE, SIDE]."""
    mean, std = (torch.tensor(clip.PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.inference_mode()
def measure(model: CLIP, words: Words, count: int = 2048) -> dict[str, float]:
    """Zero-shot accuracies on fresh pictures of the world, in percent.

    Args:
        model: in evaluation mode, with one embedding per token of `words`.
        words: its tokenizer.
        count: pictures.

    Returns:
        Over pictures of objects "object" (88 classes), "colour" (12) and "texture" (10; many objects are too thin to show
        theirs); over the others "texture_alone"; over all "recall": how often the nearest of 256 captions reads like the
        picture's own.
    """
    names = [TEMPLATES[0].format(name) for name in class_names("object")]
    classes = encode_text(model, words(names, MAX_NAME)).split([len(OBJECTS), len(COLOURS), len(TEXTURES)])
    hits: dict[str, list[Tensor]] = {"object": [], "colour": [], "texture": [], "texture_alone": [], "recall": []}
    for first in range(0, count, 256):
        batch = draw_batch(FRESH_SEED, first, min(256, count - first))
        image = functional.normalize(model.encode_image(to_images(batch.pixels)), dim=-1)  # [B, embed_dim]
        labels = torch.from_numpy(batch.labels)  # [B, 3]
        shows_object = labels[:, 0] >= 0
        for column, (kind, features) in enumerate(zip(("object", "colour", "texture"), classes, strict=True)):
            right = (image @ features.T).argmax(dim=1) == labels[:, column]
            hits[kind].append(right[shows_object])
        hits["texture_alone"].append(right[~shows_object])  # texture comes last
        nearest = (image @ encode_text(model, words(batch.captions, MAX_CAPTION)).T).argmax(dim=1).tolist()
        same = [batch.captions[index] == own for index, own in zip(nearest, batch.captions, strict=True)]
        hits["recall"].append(torch.tensor(same))
    return {kind: round(100 * torch.cat(each).float().mean().item(), 1) for kind, each in hits.items()}
