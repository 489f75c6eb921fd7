"""What params.yaml comes to: the backbone, the shape of the prompts and the recipe they are trained by."""

from __future__ import annotations

from mmlop import backbone as backbones
from mmlop.backbone import Backbone
from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.losses import Consistency
from mmlop.prompts import PromptShape
from mmlop.training import Recipe


def load_backbone(params: Params) -> Backbone:
    """The configured backbone, frozen, on the configured device."""
    profile = params.profile
    return backbones.load(profile.architecture, profile.weights, profile.precision, params.device, profile.resolution)


def prompt_shape(params: Params, backbone: Backbone, depth: int | None = None) -> PromptShape:
    """As configured, but for another ``depth``. Raises MmlopError if the prompts are deeper than the shallower encoder."""
    deepest = min(backbone.vision_layers, backbone.text_layers)
    key, depth = ("protocols.transfer.depth", depth) if depth else ("prompts.depth", params.depth)
    if depth > deepest:
        raise MmlopError(
            f"{key} is {depth}, but {backbone.name} has {backbone.vision_layers} image and "
            f"{backbone.text_layers} text blocks: choose 1 to {deepest}."
        )
    return PromptShape(depth, params.tokens, params.rank, backbone.vision_width, backbone.text_width, params.prompts.shared)


def recipe(params: Params, backbone: Backbone) -> Recipe:
    """The configured recipe, with the consistency weights scaled to the backbone."""
    train, loss = params.train, params.loss
    return Recipe(
        epochs=params.epochs,
        batch_size=train.batch_size,
        learning_rate=params.learning_rate,
        warmup_epochs=train.warmup_epochs,
        warmup_rate=train.warmup_rate,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        crop=params.crop,
        flip=params.flip,
        views=train.views,
        compile=train.compile,
        consistency=Consistency(loss.text, loss.image, loss.logits).scaled_to(backbone.embed_dim, backbone.logit_scale),
        drift_correction=loss.drift_correction,
    )
