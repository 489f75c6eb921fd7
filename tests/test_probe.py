"""The linear probe: what is minimised, the published search for C, few classes, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mmlop import probe
from mmlop.errors import MmlopError
from mmlop.probe import ProbeShape


def pictures(classes: int, shots: int, seed: int = 0, noise: float = 1.0, dim: int = 12) -> tuple[Tensor, Tensor]:
    """Unit features around one direction per class, float32, and their labels."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat(shots)
    around = torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed))
    return normalize(centres[labels] + noise * around, dim=1), labels


def test_the_shape_counts_what_is_learned() -> None:
    shape = ProbeShape(classes=5, embed_dim=12)
    features, labels = pictures(5, 3)
    factors = probe.fit(features, labels, None, None, 5, 1)
    assert {name: tuple(value.shape) for name, value in factors.items()} == shape.factors
    assert shape.trainable == 5 * 13 == sum(value.numel() for value in factors.values())
    assert shape.kind == "probe"
    assert ProbeShape(100, 512).trainable == 51_300
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in factors.values())


@pytest.mark.parametrize("classes", [1, 2, 3, 6])
def test_logits_are_the_product_of_each_picture_with_each_row(classes: int) -> None:
    features, labels = pictures(classes, 4)
    factors = probe.fit(features, labels, None, None, classes, 1)
    others = pictures(classes, 2, seed=7)[0].double()
    scores = probe.logits(factors, others)
    assert scores.shape == (2 * classes, classes)
    assert scores.dtype == torch.float64
    for m, feature in enumerate(others):
        for c in range(classes):
            by_hand = sum(float(a) * float(b) for a, b in zip(feature, factors["weight"][c], strict=True))
            assert float(scores[m, c]) == pytest.approx(by_hand + float(factors["bias"][c]), abs=1e-12)


def loss(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """What the probe minimises at C = 1. Two classes share one row, so each half carries half of its norm."""
    penalty = 2 * weight.square().sum() if len(weight) == 2 else weight.square().sum()
    return cross_entropy(features @ weight.T + bias, labels, reduction="sum") + penalty / 2


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_probe_minimises_the_penalised_cross_entropy(classes: int) -> None:
    features, labels = pictures(classes, 5)
    features = features.double()
    factors = probe.fit(features, labels, None, None, classes, 1)
    weight = torch.zeros(classes, 12, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=0.02)  # slow and obvious
    for _ in range(3000):
        optimiser.zero_grad()
        loss(weight, bias, features, labels).backward()
        optimiser.step()
    if classes == 2:  # the penalty leaves no freedom in the sum of both rows once it is their difference that counts
        assert torch.allclose(factors["weight"].sum(0), torch.zeros(12))
    assert torch.allclose(factors["weight"].double(), weight.detach(), atol=2e-3)
    reached = loss(factors["weight"].double(), factors["bias"].double(), features, labels)
    assert float(reached) == pytest.approx(float(loss(weight, bias, features, labels).detach()), rel=1e-5)


def test_two_classes_have_the_probabilities_of_their_one_row() -> None:
    features, labels = pictures(2, 6)
    factors = probe.fit(features, labels, None, None, 2, 1)
    others = pictures(2, 10, seed=3)[0].double()
    model = LogisticRegression(C=1.0, max_iter=1000).fit(features.double().numpy(), labels.numpy())
    expected = model.predict_proba(others.numpy())
    assert np.allclose(probe.logits(factors, others).softmax(1).numpy(), expected, atol=1e-6)


def test_one_class_is_certain() -> None:
    features, labels = pictures(1, 4)
    factors = probe.fit(features, labels, features, labels, 1, 1)
    assert factors["weight"].shape == (1, 12)
    assert torch.equal(probe.logits(factors, features).softmax(1), torch.ones(4, 1))


def published(features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor) -> LogisticRegression:
    """CoOp's search, every regression fitted anew."""

    def fitted(log_c: float) -> tuple[float, LogisticRegression]:
        model = LogisticRegression(C=10.0**log_c, max_iter=1000).fit(features.double().numpy(), labels.numpy())
        return float(np.mean(model.predict(val_features.double().numpy()) == val_labels.numpy())), model

    accuracies = [fitted(log_c)[0] for log_c in (6, 4, 2, 0, -2, -4, -6)]
    peak = (6, 4, 2, 0, -2, -4, -6)[int(np.argmax(accuracies))]
    left, right = peak - 1.0, peak + 1.0
    for _ in range(8):
        (left_accuracy, left_model), (right_accuracy, right_model) = fitted(left), fitted(right)
        if left_accuracy < right_accuracy:
            final, left = right_model, 0.5 * (left + right)
        else:
            final, right = left_model, 0.5 * (left + right)
    return final


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_strength_is_the_one_the_published_search_ends_at(classes: int, seed: int) -> None:
    features, labels = pictures(classes, 4, seed, noise=2.0)
    val_features, val_labels = pictures(classes, 8, seed + 50, noise=2.0)
    factors = probe.fit(features, labels, val_features, val_labels, classes, seed)
    model = published(features, labels, val_features, val_labels)
    expected = model.decision_function(val_features.double().numpy())
    if classes == 2:
        expected = np.stack([-expected / 2, expected / 2], 1)
    assert np.allclose(probe.logits(factors, val_features.double()).numpy(), expected, rtol=1e-4, atol=1e-5)


@given(st.floats(-6.9, 6.9))
def test_the_search_closes_in_on_a_single_peak(peak: float) -> None:
    found = probe.search(lambda exponent: -round(1e6 * abs(exponent - peak)))
    assert abs(found - peak) <= 2 / 2**7  # the last better end of two decades halved eight times


@given(st.integers(0, 2**31))
def test_the_search_ends_no_lower_than_the_grid(seed: int) -> None:
    def score(exponent: float) -> int:  # any table of scores, with many equals
        return hash((exponent, seed)) % 5

    assert score(probe.search(score)) >= max(score(exponent) for exponent in probe.GRID)


def test_the_search_asks_each_strength_of_few_regressions() -> None:
    asked: list[float] = []

    def score(exponent: float) -> int:
        asked.append(exponent)
        return 0

    assert probe.search(score) == 5.0  # of equals: the first of the grid, then the stronger penalty
    assert len(set(asked)) == 7 + 2 + 6  # the grid, two ends, and the middles after the first, which is the grid's best
    assert min(asked) == -6
    assert max(asked) == 7


@pytest.mark.parametrize("empty", [True, False])
def test_without_validation_pictures_c_is_one(empty: bool) -> None:
    features, labels = pictures(4, 3)
    val = (features[:0], labels[:0]) if empty else (None, None)
    factors = probe.fit(features, labels, *val, 4, 1)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(features.double().numpy(), labels.numpy())
    assert np.array_equal(factors["weight"].numpy(), model.coef_.astype(np.float32))
    assert np.array_equal(factors["bias"].numpy(), model.intercept_.astype(np.float32))


def test_the_same_pictures_give_the_same_probe_whatever_the_seed() -> None:
    features, labels = pictures(4, 3, noise=2.0)
    val_features, val_labels = pictures(4, 5, 1, noise=2.0)
    first = probe.fit(features, labels, val_features, val_labels, 4, 1)
    torch.manual_seed(5)
    again = probe.fit(features, labels, val_features, val_labels, 4, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_changes_only_rounding(classes: int, shots: int, seed: int, random: object) -> None:
    features, labels = pictures(classes, shots, seed)
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one = probe.fit(features, labels, None, None, classes, 1)
    other = probe.fit(features[order], labels[order], None, None, classes, 1)
    for name, value in one.items():
        assert math.isclose(float((value - other[name]).norm()), 0, abs_tol=1e-5 * (1 + float(value.norm())))


def test_the_search_warns_of_nothing() -> None:
    features, labels = pictures(6, 16, noise=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also what scikit-learn says of arguments on their way out
        probe.fit(features, labels, features, labels, 6, 1)


@pytest.mark.parametrize("shots", [1, 2])
def test_many_classes_of_few_shots_are_no_reason_to_warn(shots: int) -> None:
    features, labels = pictures(24, shots)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe.fit(features, labels, features, labels, 24, 1)


def test_other_warnings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """L-BFGS that is stopped long before it has converged says so."""
    monkeypatch.setattr(probe, "STEPS", 1)
    features, labels = pictures(24, 1)
    with pytest.warns(ConvergenceWarning):
        probe.fit(features, labels, None, None, 24, 1)


def test_a_class_without_a_picture_is_refused_by_number() -> None:
    features, labels = pictures(4, 3)
    kept = labels != 2
    with pytest.raises(MmlopError, match=r"each of the 4 classes, and class number 2 .* has none"):
        probe.fit(features[kept], labels[kept], None, None, 4, 1)


def test_scikit_learn_is_loaded_only_to_fit() -> None:
    code = "import sys, mmlop.probe, mmlop.tip; sys.exit(any(name.split('.')[0] == 'sklearn' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
