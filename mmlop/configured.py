"""What params.yaml comes to: the backbone, the shape of what is learned and the recipe it is learned by."""

from __future__ import annotations

from mmlop import backbone as backbones
from mmlop import methods
from mmlop.backbone import Backbone
from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.lora import LoraShape
from mmlop.losses import Consistency
from mmlop.prompts import PromptShape
from mmlop.training import Recipe


def load_backbone(params: Params) -> Backbone:
    """The configured backbone, frozen, on the configured device."""
    profile = params.profile
    return backbones.load(profile.architecture, profile.weights, profile.precision, params.device, profile.resolution)


def shape(params: Params, backbone: Backbone, depth: int | None = None) -> PromptShape | LoraShape | None:
    """What the configured method trains by gradient, prompts no deeper than ``depth``; None for methods that don't.

    Raises MmlopError if the prompts are deeper than an encoder they enter.
    """
    kind = methods.get(params.method).kind
    if kind == "lora":
        return LoraShape(
            vision_layers=backbone.vision_layers,
            text_layers=backbone.text_layers,
            vision_width=backbone.vision_width,
            text_width=backbone.text_width,
            **params.effective["lora"],
        )
    if kind != "prompts":
        return None
    prompts = params.effective["prompts"]
    known = {"vision": backbone.vision_layers, "text": backbone.text_layers}
    deepest = known.get(prompts["encoders"], min(known.values()))
    key, depth = (
        ("protocols.transfer.depth", min(depth, prompts["depth"])) if depth else ("prompts.depth", prompts["depth"])
    )
    if depth > deepest:
        raise MmlopError(
            f"{key} is {depth}, but {backbone.name} has {backbone.vision_layers} image and "
            f"{backbone.text_layers} text blocks: choose 1 to {deepest}."
        )
    widths = {"vision_width": backbone.vision_width, "text_width": backbone.text_width}
    return PromptShape(**prompts | widths | {"depth": depth})


def recipe(params: Params, backbone: Backbone) -> Recipe:
    """The configured recipe, with the consistency weights scaled to the backbone. Drift is corrected only of methods that
    train by gradient."""
    train, loss = params.effective["train"], params.effective["loss"]
    own = ("threads", "parallel_seeds", "steps_per_shot", "averaging", "epochs")  # not the recipe's, or not as they are
    consistency = Consistency(loss["text"], loss["image"], loss["logits"], loss["distance"])
    return Recipe(
        **{key: value for key, value in train.items() if key not in own and value is not None},
        epochs=train["epochs"] or 0,
        steps_per_shot=train["steps_per_shot"],
        averaging=tuple(train["averaging"].values()) if train["averaging"] else None,
        consistency=consistency.scaled_to(backbone.embed_dim, backbone.logit_scale),
        drift_correction=loss["drift_correction"] and methods.get(params.method).trains,
    )
