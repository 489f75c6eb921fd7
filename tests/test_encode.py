"""The prompted encoders are exact: against open_clip, against PromptSRC's numbers, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import slow_clip
import torch
from conftest import tiny_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop import losses
from mmlop.backbone import Backbone, wrap
from mmlop.encode import encode_image, encode_text
from mmlop.prompts import PromptShape, compose, initialise

NAMES = ["cat", "dog", "a very long name for a class of small furry animals", "x", "Boeing 747-400", "café", "tank car"]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float, scale: float = 0.0) -> bool:
    """Norm-wise; ``scale`` is what the two are compared with where they cancel to nearly nothing."""
    return bool((a - b).norm() <= tolerance * max(b.norm().item(), scale))


@pytest.fixture(scope="module")
def exact() -> Backbone:
    backbone = wrap(tiny_clip(), "tiny", "random")
    backbone.model.double()
    return backbone


def images(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count), dtype=dtype)


def test_without_prompts_they_are_open_clips_own(tiny: Backbone) -> None:
    pictures, tokens = images(3, torch.float32), tiny.tokenizer(NAMES)
    assert torch.allclose(encode_image(tiny, pictures), tiny.model.encode_image(pictures), atol=1e-5)
    assert torch.allclose(encode_text(tiny, tiny.tokenize(NAMES)), tiny.model.encode_text(tokens), atol=1e-5)


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


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 2),
    tokens=st.integers(1, 8),
    rank=st.integers(1, 4),
    shared=st.booleans(),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=9),
    seed=st.integers(0, 2**31),
)
def test_features_and_gradients_equal_the_slow_reference(
    exact: Backbone, depth: int, tokens: int, rank: int, shared: bool, names: list[str], seed: int
) -> None:
    shape = PromptShape(depth, tokens, min(rank, tokens), 32, 32, shared)
    generator = torch.Generator().manual_seed(seed)
    start = {k: v.double() * 5 for k, v in initialise(shape, None, generator).items()}
    texts, pictures = [f"{name}." for name in names], images(3)
    token_rows = exact.tokenize(texts, prompts=tokens)
    padded = slow_clip.with_placeholders(token_rows, tokens, exact.context_length)
    weigh = torch.randn(3 + len(names), exact.embed_dim, generator=generator, dtype=torch.float64)

    results = []
    for image_encoder, text_encoder, rows in (
        (lambda p: encode_image(exact, pictures, p), encode_text, token_rows),
        (lambda p: slow_clip.encode_image(exact, pictures, p.expand(3, -1, -1, -1)), slow_clip.encode_text, padded),
    ):
        factors = {k: v.clone().requires_grad_() for k, v in start.items()}
        vision, text = compose(factors)
        features = torch.cat([image_encoder(vision), text_encoder(exact, rows, text)])
        gradients = torch.autograd.grad((features * weigh).sum(), list(factors.values()))
        results.append((features, *gradients))
    largest = max(gradient.norm().item() for gradient in results[1][1:])
    for ours, slow in zip(*results, strict=True):  # a norm behind the prompts makes U's gradient vanish for n = r = J = 1
        assert close(ours, slow, 1e-10, scale=1e-3 * largest)


def test_one_prompt_set_per_image_and_many_for_text(exact: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    vision = torch.randn(3, 2, 4, 32, generator=generator, dtype=torch.float64)
    text = torch.randn(3, 2, 4, 32, generator=generator, dtype=torch.float64)
    pictures, tokens = images(3), exact.tokenize(NAMES)
    together = encode_image(exact, pictures, vision)
    assert close(together, slow_clip.encode_image(exact, pictures, vision), 1e-12)
    for one in range(3):
        assert close(together[one], encode_image(exact, pictures[one : one + 1], vision[one])[0], 1e-12)
        assert close(encode_text(exact, tokens, text)[one], encode_text(exact, tokens, text[one]), 1e-12)


def test_text_longer_than_the_context_is_refused(tiny: Backbone) -> None:
    with pytest.raises(ValueError, match="context"):
        encode_text(tiny, tiny.tokenize(["cat " * 73]), torch.zeros(1, 4, 32))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_near_fp32(precision: str) -> None:
    exact, low = wrap(tiny_clip(), "tiny", "random"), wrap(tiny_clip(), "tiny", "random", precision)
    assert exact.fingerprint == low.fingerprint  # the fingerprint is of the weights, not of their cast
    pictures, tokens = images(3, torch.float32), exact.tokenize(NAMES)
    prompts = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))
    for encode, given_ in ((encode_image, pictures), (encode_text, tokens)):
        full, rough = losses.unit(encode(exact, given_, prompts)), losses.unit(encode(low, given_, prompts))
        assert rough.dtype == torch.float32
        assert 0 < (full - rough).norm(dim=-1).max() < 0.03
