"""Methods that train no encoder: a classifier is made from frozen features of the shots, in one go."""

from __future__ import annotations

import torch
from torch import Tensor

from mmlop import probe, tip
from mmlop.backbone import Backbone
from mmlop.features import frozen_images, frozen_text
from mmlop.losses import unit
from mmlop.probe import ProbeShape
from mmlop.prompts import Factors
from mmlop.shapes import NoShape, Shape
from mmlop.tip import CacheShape
from mmlop.training import Recipe
from mmlop.views import Shots, Views

CHOOSING = ("probe", "cache")  # kinds that choose strengths by validation pictures
Prepared = tuple[Tensor, Tensor, list[str]]  # pictures uint8 [N, 3, S, S], labels [N], content hashes


@torch.no_grad()
def fit(
    backbone: Backbone, kind: str, recipe: Recipe, shots: Shots, prepared: Prepared, validation: Prepared, seed: int
) -> tuple[Shape, Factors]:
    """The shape and factors of a linear probe, a cache, or of nothing at all.

    ``prepared`` are the shots and ``validation`` the few validation pictures of the seed, by which strengths are chosen.
    A cache holds the mean feature over ``recipe.views`` views of each picture (0: of the prepared picture).
    """
    if kind == "none":
        return NoShape(), {}
    pictures, labels, contents = prepared
    features = frozen_images(backbone, pictures, contents)  # [N, d]
    val_features = frozen_images(backbone, validation[0], validation[2]) if len(validation[1]) else None
    classes, embed_dim = len(shots.classes), backbone.embed_dim
    if kind == "probe":
        shape = ProbeShape(classes, embed_dim)
        return shape, probe.fit(features, labels, val_features, validation[1], classes, seed)
    keys = unit(Views(backbone, recipe, shots, seed).means()) if recipe.views else features
    text = frozen_text(backbone, shots.classes, [shots.template])
    factors = tip.fit(keys, labels, classes, val_features, validation[1], text, backbone.logit_scale)
    return CacheShape(len(labels), classes, embed_dim), factors
