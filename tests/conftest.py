"""Fixtures: a tiny random CLIP, and the CLIP whose PromptSRC results are in `golden_promptsrc.npz`."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from mmlop.backbone import Backbone, Preprocessing, wrap

torch.set_num_threads(1)
os.environ["MMLOP_CACHE"] = tempfile.mkdtemp(prefix="mmlop-cache-")  # for the clones and processes of tests too
atexit.register(shutil.rmtree, os.environ["MMLOP_CACHE"], ignore_errors=True)


def tiny_clip(seed: int = 0, text_context: int = 77) -> open_clip.model.CLIP:
    """Two layers, width 32, random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(
            embed_dim=16,
            vision_cfg={"layers": 2, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16},
            text_cfg={"context_length": text_context, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        )
        for name, weight in model.named_parameters():  # open_clip starts biases at 0 and norms at 1: make them matter
            if name.endswith("bias") or ".ln_" in name:
                torch.nn.init.normal_(weight, mean=1.0 if name.endswith("weight") else 0.0, std=0.1)
    return model


@pytest.fixture
def tiny() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture
def tiny64(tiny: Backbone) -> Backbone:
    tiny.model.double()
    return tiny


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden_promptsrc.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def golden_backbone(golden: dict[str, np.ndarray]) -> Backbone:
    model = open_clip.model.CLIP(
        embed_dim=16,
        quick_gelu=True,
        vision_cfg={"layers": 3, "width": 64, "patch_size": 8, "image_size": 32, "head_width": 64},
        text_cfg={"context_length": 77, "vocab_size": 120, "width": 32, "heads": 2, "layers": 3},
    )
    model.load_state_dict({k[2:]: torch.tensor(v) for k, v in golden.items() if k.startswith("w:")})
    model.eval().requires_grad_(False)
    preprocessing = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Backbone("golden", "golden", model, SimpleTokenizer(context_length=77), preprocessing, "golden")
