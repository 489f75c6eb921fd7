"""Every loss term against loops over plain numbers."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmlop.losses import Consistency, correct_drift, kl_per_logit, loss_terms, unit

sizes = {
    "batch": st.integers(1, 4),
    "classes": st.integers(1, 5),
    "width": st.integers(1, 8),
    "seed": st.integers(0, 2**31),
}


def random_units(seed: int, *size: int) -> Tensor:
    return unit(torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def slow_softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


def slow_logits(images: Tensor, texts: Tensor, scale: float) -> list[list[float]]:
    return [[scale * sum(a * b for a, b in zip(f, w, strict=True)) for w in texts.tolist()] for f in images.tolist()]


def slow_l1(a: Tensor, b: Tensor) -> float:
    gaps = [abs(x - y) for row, other in zip(a.tolist(), b.tolist(), strict=True) for x, y in zip(row, other, strict=True)]
    return sum(gaps) / len(gaps)


def slow_cosine(a: Tensor, b: Tensor) -> float:
    """Mean over classes of 1 - cos, of vectors that need not be of unit length."""
    found = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        lengths = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
        found.append(1 - sum(v * w for v, w in zip(x, y, strict=True)) / lengths)
    return sum(found) / len(found)


def slow_terms(
    image: Tensor,
    text: Tensor,
    frozen_image: Tensor,
    frozen_text: Tensor,
    labels: list[int],
    tau: float,
    weights: Consistency,
) -> dict[str, float]:
    ours, frozen = slow_logits(image, text, tau), slow_logits(frozen_image, frozen_text, tau)
    batch, classes = len(ours), len(ours[0])
    ce = -sum(math.log(slow_softmax(row)[label]) for row, label in zip(ours, labels, strict=True)) / batch
    kl = 0.0
    for p_row, q_row in zip(map(slow_softmax, frozen), map(slow_softmax, ours), strict=True):
        kl += sum(p * (math.log(p) - math.log(q)) for p, q in zip(p_row, q_row, strict=True))
    terms = {
        "ce": ce,
        "text": weights.text * {"l1": slow_l1, "cosine": slow_cosine}[weights.distance](text, frozen_text),
        "image": weights.image * slow_l1(image, frozen_image),
        "kl": weights.logits * kl / (batch * classes),
    }
    return {"loss": sum(terms.values()), **terms}


def slow_drift(prompted: np.ndarray, frozen: np.ndarray) -> np.ndarray:
    classes, width = prompted.shape
    corrected = np.empty_like(prompted)
    delta = [sum(prompted[c, k] - frozen[c, k] for c in range(classes)) / classes for k in range(width)]
    for c in range(classes):
        moved = [prompted[c, k] - delta[k] for k in range(width)]
        length = math.sqrt(sum(value**2 for value in moved))
        corrected[c] = [value / length for value in moved]
    return corrected


@settings(max_examples=60, deadline=None)
@given(
    **sizes,
    tau=st.floats(1, 100),
    weights=st.builds(
        Consistency, st.floats(0.1, 50), st.floats(0.1, 50), st.floats(0.1, 5), st.sampled_from(["l1", "cosine"])
    ),
)
def test_every_term_equals_its_loop(
    batch: int, classes: int, width: int, seed: int, tau: float, weights: Consistency
) -> None:
    image, frozen_image = random_units(seed, batch, width), random_units(seed + 1, batch, width)
    text, frozen_text = random_units(seed + 2, classes, width), random_units(seed + 3, classes, width)
    labels = [(seed + i) % classes for i in range(batch)]
    found = loss_terms(image, text, frozen_image, frozen_text, torch.tensor(labels), tau, weights)
    # exp(-200) is far above the smallest float64, so that the loops may take logarithms of probabilities
    expected = slow_terms(image, text, frozen_image, frozen_text, labels, tau, weights)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9, abs=1e-10), name


@pytest.mark.parametrize("off", ["text", "image", "logits"])
def test_a_zero_weight_switches_its_term_off(off: str) -> None:
    weights = {"text": 25.0, "image": 10.0, "logits": 1.0} | {off: 0.0}
    image, text = random_units(0, 3, 6), random_units(1, 4, 6)
    broken = torch.full((3, 6), torch.nan, dtype=torch.float64), torch.full((4, 6), torch.nan, dtype=torch.float64)
    frozen_image = broken[0] if off == "image" else random_units(2, 3, 6)
    frozen_text = broken[1] if off == "text" else random_units(3, 4, 6)
    labels = torch.tensor([0, 1, 2])
    if off != "logits":  # KL reads both; leave it out to see that the other term is not computed at all
        weights["logits"] = 0.0
    terms = loss_terms(image, text, frozen_image, frozen_text, labels, 10.0, Consistency(**weights))
    key = {"logits": "kl"}.get(off, off)
    assert key not in terms
    assert torch.isfinite(terms["loss"])
    assert terms["loss"].item() == pytest.approx(sum(v.item() for k, v in terms.items() if k != "loss"))


def test_without_consistency_only_cross_entropy_is_left() -> None:
    terms = loss_terms(
        random_units(0, 3, 6),
        random_units(1, 4, 6),
        random_units(2, 3, 6),
        random_units(3, 4, 6),
        torch.tensor([0, 1, 3]),
        7.0,
        Consistency(0, 0, 0),
    )
    assert set(terms) == {"loss", "ce"}
    assert terms["loss"].item() == terms["ce"].item()


def test_an_unmoved_model_pays_for_nothing_but_its_mistakes() -> None:
    image, text, labels = random_units(0, 3, 6), random_units(1, 4, 6), torch.tensor([0, 1, 3])
    terms = loss_terms(image, text, image, text, labels, 10.0, Consistency())
    assert terms["text"].item() == terms["image"].item() == 0
    assert terms["kl"].item() == pytest.approx(0, abs=1e-15)
    assert terms["loss"].item() == pytest.approx(terms["ce"].item())


@settings(max_examples=30, deadline=None)
@given(**sizes)
def test_kl_is_never_negative_and_not_symmetric_in_its_roles(batch: int, classes: int, width: int, seed: int) -> None:
    frozen = 5 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours = 5 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    assert kl_per_logit(frozen, ours).item() >= -1e-12
    assert kl_per_logit(frozen, frozen).item() == pytest.approx(0, abs=1e-12)
    shifted = kl_per_logit(frozen + 3, ours - 2)  # a softmax does not see a constant
    assert shifted.item() == pytest.approx(kl_per_logit(frozen, ours).item(), rel=1e-9, abs=1e-12)


def test_kl_takes_its_expectation_under_the_frozen_model() -> None:
    frozen, ours = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert kl_per_logit(frozen, ours).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 6), width=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_drift_correction_equals_its_loop(classes: int, width: int, seed: int) -> None:
    prompted, frozen = random_units(seed, classes, width), random_units(seed + 1, classes, width)
    assert np.allclose(correct_drift(prompted, frozen).numpy(), slow_drift(prompted.numpy(), frozen.numpy()), atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 6), width=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_a_drift_common_to_all_classes_is_removed(classes: int, width: int, seed: int) -> None:
    frozen, drift = random_units(seed, classes, width), random_units(seed + 1, width)
    assert torch.allclose(correct_drift(frozen + 0.7 * drift, frozen), frozen, atol=1e-12)
    assert torch.allclose(correct_drift(frozen, frozen), frozen, atol=1e-12)
    prompted = random_units(seed + 2, classes, width)  # and what is added to all classes never shows
    assert torch.allclose(correct_drift(prompted + drift, frozen), correct_drift(prompted, frozen), atol=1e-9)


def test_a_single_class_is_left_alone() -> None:
    prompted, frozen = random_units(0, 1, 8), random_units(1, 1, 8)
    assert torch.equal(correct_drift(prompted, frozen), prompted)
    several = random_units(2, 5, 1, 8)
    assert torch.equal(correct_drift(several, frozen), several)


def test_drift_is_corrected_separately_along_leading_dimensions() -> None:
    prompted, frozen = random_units(0, 3, 2, 5, 8), random_units(1, 5, 8)
    together = correct_drift(prompted, frozen)
    for i in range(3):
        for j in range(2):
            assert torch.allclose(together[i, j], correct_drift(prompted[i, j], frozen), atol=1e-12)


@pytest.mark.parametrize("distance", ["l1", "cosine"])
def test_gradients_are_right(distance: Literal["l1", "cosine"]) -> None:
    image, text, frozen_image, frozen_text = (
        random_units(seed, size, 5).requires_grad_(seed < 2) for seed, size in enumerate((2, 3, 2, 3))
    )

    def loss(image: Tensor, text: Tensor) -> Tensor:
        moved = correct_drift(unit(text), frozen_text)
        labels = torch.tensor([2, 0])
        weights = Consistency(distance=distance)
        return loss_terms(unit(image), moved, frozen_image, frozen_text, labels, 8.0, weights)["loss"]

    assert torch.autograd.gradcheck(loss, (image, text), eps=1e-7, atol=1e-5)


def test_scaling_is_the_identity_where_the_weights_were_published() -> None:
    assert Consistency(25, 10, 1).scaled_to(512, 100.0) == Consistency(25, 10, 1)


@given(width=st.integers(1, 4096), tau=st.floats(0.1, 1000))
def test_a_cosines_weight_does_not_depend_on_the_width(width: int, tau: float) -> None:
    scaled = Consistency(8, 10, 1, "cosine").scaled_to(width, tau)
    assert scaled.text == pytest.approx(8 * tau / 100)
    assert scaled.image == pytest.approx(10 * tau / 100 * (width / 512) ** 0.5)
    assert (scaled.logits, scaled.distance) == (1, "cosine")


@pytest.mark.parametrize("distance", ["l1", "cosine"])
@pytest.mark.parametrize("width", [32, 128, 512])
def test_scaling_keeps_the_ratio_of_gradients(distance: Literal["l1", "cosine"], width: int) -> None:
    """That of the text term to the cross-entropy, for features that differ alike, whatever the width."""

    def ratio(width: int) -> float:
        total = 0.0
        for seed in range(20):
            text, frozen_text = (random_units(10 * seed + k, 8, width) for k in (1, 2))
            frozen_text, image = unit(text + 0.2 * frozen_text), unit(text[:4] + random_units(10 * seed + 3, 4, width))
            text.requires_grad_()
            weights = Consistency(25, 0, 0, distance).scaled_to(width, 100.0)
            terms = loss_terms(image, text, image, frozen_text, torch.zeros(4, dtype=torch.long), 100.0, weights)
            ce, pull = (torch.autograd.grad(terms[key], text, retain_graph=True)[0].norm() for key in ("ce", "text"))
            total += float(pull / ce) / 20
        return total

    assert ratio(width) == pytest.approx(ratio(512), rel=0.15)


@given(width=st.integers(1, 4096), tau=st.floats(0.1, 1000))
def test_scaling_elsewhere_follows_the_rule(width: int, tau: float) -> None:
    scaled = Consistency(25, 10, 1).scaled_to(width, tau)
    factor = tau / 100 * (width / 512) ** 0.5
    assert scaled.text == pytest.approx(25 * factor)
    assert scaled.image == pytest.approx(10 * factor)
    assert scaled.logits == 1


def test_unit_keeps_float64_and_lifts_lower_precision() -> None:
    for given_, expected in (
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ):
        found = unit(torch.tensor([[3.0, 4.0]], dtype=given_))
        assert found.dtype == expected
        assert torch.allclose(found, torch.tensor([[0.6, 0.8]], dtype=expected))
