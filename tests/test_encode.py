"""The prompted encoders against PromptSRC's numbers, in low precision, and what they refuse.

`test_exactness.py` compares them with open_clip and with a slow reference.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_clip

from mmlop import losses
from mmlop.backbone import Backbone, wrap
from mmlop.encode import encode_image, encode_text

NAMES = ["cat", "dog", "a very long name for a class of small furry animals", "x", "Boeing 747-400", "café", "tank car"]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm())


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))


def test_features_losses_and_gradients_match_promptsrc(golden: dict[str, np.ndarray], golden_backbone: Backbone) -> None:
    pictures, labels = torch.tensor(golden["images"]), torch.tensor(golden["labels"])
    tokens = torch.tensor(golden["tokens"])
    vision = torch.tensor(golden["P_v"], requires_grad=True)
    text = torch.tensor(golden["P_t"], requires_grad=True)
    tau = golden_backbone.logit_scale

    own = torch.cat([tokens[:, :1], tokens[:, 3:]], dim=1)  # our token rows have no placeholders
    image_features = losses.unit(encode_image(golden_backbone, pictures, vision))
    text_features = losses.unit(encode_text(golden_backbone, own, text))
    frozen_image = losses.unit(encode_image(golden_backbone, pictures))
    frozen_text = losses.unit(encode_text(golden_backbone, tokens))  # frozen: the placeholders are ordinary words
    found = {
        "image_features": image_features,
        "text_features": text_features,
        "frozen_image_features": frozen_image,
        "frozen_text_features": frozen_text,
        "logits": tau * image_features @ text_features.T,
        "frozen_logits": tau * frozen_image @ frozen_text.T,
    }
    for name, value in found.items():
        assert torch.allclose(value, torch.tensor(golden[name]), rtol=1e-4, atol=2e-5), name

    terms = losses.loss_terms(
        image_features, text_features, frozen_image, frozen_text, labels, tau, losses.Consistency(25, 10, 1)
    )
    names = {"ce": "ce", "text": "text_l1_x25", "image": "image_l1_x10", "kl": "kl", "loss": "total"}
    for name, theirs in names.items():
        assert terms[name].item() == pytest.approx(float(golden[f"loss_{theirs}"]), rel=1e-4), name
    terms["loss"].backward()
    assert close(vision.grad, torch.tensor(golden["grad_P_v"]), 1e-3)  # type: ignore[arg-type]
    assert close(text.grad, torch.tensor(golden["grad_P_t"]), 1e-3)  # type: ignore[arg-type]


def test_text_longer_than_the_context_is_refused(tiny: Backbone) -> None:
    with pytest.raises(ValueError, match="context"):
        encode_text(tiny, tiny.tokenize(["cat " * 73]), torch.zeros(1, 4, 32))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_near_fp32(precision: str) -> None:
    exact, low = wrap(tiny_clip(), "tiny", "random"), wrap(tiny_clip(), "tiny", "random", precision)
    assert exact.fingerprint == low.fingerprint  # the fingerprint is of the weights, not of their cast
    pictures, tokens = images(3), exact.tokenize(NAMES)
    prompts = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))
    for encode, given_ in ((encode_image, pictures), (encode_text, tokens)):
        full, rough = losses.unit(encode(exact, given_, prompts)), losses.unit(encode(low, given_, prompts))
        assert rough.dtype == torch.float32
        assert 0 < (full - rough).norm(dim=-1).max() < 0.03
