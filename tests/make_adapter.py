"""A small adapter for the tiny CLIP of conftest."""

from __future__ import annotations

from typing import Any

import torch

from mmlop.adapter import Adapter, AdapterInfo, Origin, record
from mmlop.backbone import Backbone
from mmlop.prompts import PromptShape, initialise

CLASSES = ("cat", "dog", "sea_horse")
TEMPLATES = ("a photo of a {}.", "a drawing of the {}.")


def make_adapter(clip: Backbone, seed: int = 0, shape: PromptShape | None = None, **changes: Any) -> Adapter:
    shape = shape or PromptShape(2, 3, 2, clip.vision_width, clip.text_width)
    generator = torch.Generator().manual_seed(seed)
    factors = {name: value * 5 for name, value in initialise(shape, None, generator).items()}
    origin = Origin(
        dataset="pets", data_hash="d" * 64, split_hash="s" * 64, shots=16, seed=seed, params={"a": 1}, mode={"threads": 1}
    )
    fields: dict[str, Any] = {
        "method": "mmlop",
        "shape": shape,
        "drift_correction": True,
        "backbone": record(clip),
        "classes": CLASSES,
        "template": TEMPLATES[0],
        "anchor_name": "two",
        "anchor_templates": TEMPLATES,
        "origin": origin,
        "metrics": {"accuracy": 87.5, "validation": 90.0},
    }
    return Adapter(factors, AdapterInfo(**fields | changes))
