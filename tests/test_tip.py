"""Tip-Adapter: votes of the cache by hand, the published search, candidates that are not cached, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mmlop import tip
from mmlop.errors import MmlopError
from mmlop.tip import CacheShape

SCALE = 30.0


def unit(rows: int, seed: int, dim: int = 8) -> Tensor:
    return normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def world(classes: int, shots: int, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Keys, their labels, validation features, their labels, and class features that know the classes only vaguely."""
    centres = unit(classes, 1000 + seed)
    labels, val_labels = torch.arange(classes).repeat(shots), torch.arange(classes).repeat(rows)
    keys = normalize(centres[labels] + unit(len(labels), seed + 1), dim=1)
    val_features = normalize(centres[val_labels] + unit(len(val_labels), seed + 2), dim=1)
    return keys, labels, val_features, val_labels, normalize(centres + 2 * unit(classes, seed + 3), dim=1)


def by_hand(
    keys: Tensor, labels: list[int], alpha: float, beta: float, feature: Tensor, text: Tensor, columns: list[int | None]
) -> list[float]:
    """One picture's scores, a loop over candidates and cached pictures."""
    scores = []
    for name, column in zip(text, columns, strict=True):
        score = SCALE * sum(float(a) * float(b) for a, b in zip(feature, name, strict=True))
        for key, label in zip(keys, labels, strict=True):
            if label == column:
                similarity = sum(float(a) * float(b) for a, b in zip(feature, key, strict=True))
                score += alpha * math.exp(-beta * (1 - similarity))
        scores.append(score)
    return scores


def brute_force(
    keys: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor, text: Tensor
) -> tuple[float, float]:
    """The first best of all 200 x 200 settings, each tried: beta outside, alpha inside."""
    settings = [i * (50 - 0.1) / 200 + 0.1 for i in range(200)]
    similarity, zero_shot = (val_features.double() @ keys.double().T), SCALE * (val_features.double() @ text.double().T)
    counts = []
    for beta in settings:
        weights = (-(beta - beta * similarity)).exp()
        votes = torch.stack([weights[:, labels == c].sum(1) for c in range(len(text))], 1)
        scores = zero_shot + torch.tensor(settings, dtype=torch.float64)[:, None, None] * votes  # [200, V, C]
        counts += (scores.argmax(2) == val_labels).sum(1).tolist()
    beta_index, alpha_index = divmod(counts.index(max(counts)), 200)
    return settings[alpha_index], settings[beta_index]


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_logits_are_the_zero_shot_scores_and_each_pictures_vote(classes: int) -> None:
    keys, labels, val_features, val_labels, text = world(classes, 3, 2)
    factors = tip.fit(keys, labels, classes, val_features, val_labels, text, SCALE)
    alpha, beta = factors["strength"].tolist()
    candidates = torch.cat([unit(1, 77), text.flip(0)]).double()  # one that is not cached, then the classes backwards
    columns = [None, *reversed(range(classes))]
    features = unit(5, 78).double()
    scores = tip.logits(factors, features, candidates, SCALE, columns)
    assert scores.shape == (5, classes + 1)
    for row, feature in zip(scores.tolist(), features, strict=True):
        assert row == pytest.approx(by_hand(keys, labels.tolist(), alpha, beta, feature, candidates, columns), abs=1e-10)


def test_a_class_outside_the_cache_is_scored_by_its_name_alone() -> None:
    keys, labels, *_, text = world(3, 4, 1)
    factors = tip.fit(keys, labels, 3, None, None, text, SCALE)
    features, novel = unit(6, 5), unit(2, 6)
    assert torch.equal(tip.logits(factors, features, novel, SCALE, [None, None]), SCALE * features @ novel.T)
    mixed = tip.logits(factors, features, torch.cat([text, novel]), SCALE, [0, 1, 2, None, None])
    assert torch.allclose(mixed[:, :3], tip.logits(factors, features, text, SCALE, [0, 1, 2]))
    assert torch.allclose(mixed[:, 3:], SCALE * features @ novel.T)
    assert (mixed[:, :3] > SCALE * features @ text.T).all()


def test_the_shape_describes_the_cache() -> None:
    keys, labels, *_, text = world(3, 4, 1)
    factors = tip.fit(keys.double(), labels.int(), 3, None, None, text, SCALE)
    shape = CacheShape(pictures=12, classes=3, embed_dim=8)
    assert {name: tuple(value.shape) for name, value in factors.items()} == shape.factors
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in factors.values())
    assert torch.equal(factors["keys"], keys)
    assert [row.tolist() for row in factors["values"]] == [[float(label == c) for c in range(3)] for label in labels]
    assert (shape.trainable, shape.kind) == (0, "cache")


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (2, 1), *((5, seed) for seed in range(10, 50, 4)), (8, 60)])
def test_the_search_picks_what_brute_force_picks(classes: int, seed: int) -> None:
    keys, labels, val_features, val_labels, text = world(classes, 2, 4, seed)
    factors = tip.fit(keys, labels, classes, val_features, val_labels, text, SCALE)
    expected = brute_force(keys, labels, val_features, val_labels, text)
    assert factors["strength"].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_the_search_knows_that_votes_decide_nothing_between_classes_without_pictures(seed: int) -> None:
    keys, labels, val_features, val_labels, text = world(6, 2, 6, seed)
    keys, labels = keys[labels < 2], labels[labels < 2]
    factors = tip.fit(keys, labels, 6, val_features, val_labels, text, SCALE)
    expected = brute_force(keys, labels, val_features, val_labels, text)
    assert factors["strength"].tolist() == pytest.approx(expected, rel=1e-6)


def test_of_equally_good_settings_the_smallest_is_taken() -> None:
    keys, labels, _, _, text = world(1, 2, 1)  # one class: every setting gets everything right
    factors = tip.fit(keys, labels, 1, keys, labels, text, SCALE)
    assert factors["strength"].tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("empty", [True, False])
def test_without_validation_pictures_the_published_strengths_hold(empty: bool) -> None:
    keys, labels, val_features, val_labels, text = world(3, 2, 2)
    val = (val_features[:0], val_labels[:0]) if empty else (None, None)
    assert tip.fit(keys, labels, 3, *val, text, SCALE)["strength"].tolist() == pytest.approx([1.17, 1.0])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_changes_only_rounding(classes: int, shots: int, seed: int, random: object) -> None:
    keys, labels, val_features, val_labels, text = world(classes, shots, 2, seed)
    order, val_order = list(range(len(labels))), list(range(len(val_labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    random.shuffle(val_order)  # type: ignore[attr-defined]
    one = tip.fit(keys, labels, classes, val_features, val_labels, text, SCALE)
    other = tip.fit(keys[order], labels[order], classes, val_features[val_order], val_labels[val_order], text, SCALE)
    assert torch.equal(one["strength"], other["strength"])
    features, columns = unit(4, seed + 9), list(range(classes))
    scores = tip.logits(one, features, text, SCALE, columns)
    assert torch.allclose(scores, tip.logits(other, features, text, SCALE, columns), atol=1e-4)


def test_the_same_pictures_give_the_same_cache() -> None:
    first, again = (tip.fit(*world(3, 2, 2)[:2], 3, *world(3, 2, 2)[2:], SCALE) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_labels_that_are_no_classes_and_an_empty_cache_are_refused() -> None:
    keys, labels, *_, text = world(3, 2, 1)
    with pytest.raises(MmlopError, match="Labels run from 0 to 2, but 2 classes are numbered 0 to 1"):
        tip.fit(keys, labels, 2, None, None, text, SCALE)
    with pytest.raises(MmlopError, match="Labels run from -1 to 1"):
        tip.fit(keys, labels - 1, 3, None, None, text, SCALE)
    with pytest.raises(MmlopError, match="at least one training picture"):
        tip.fit(keys[:0], labels[:0], 3, None, None, text, SCALE)


@pytest.mark.parametrize("columns", [[0, 1], [0, 1, 2, None], [0, 1, 3], [0, 1, -1]])
def test_columns_that_do_not_fit_the_candidates_are_refused(columns: list[int | None]) -> None:
    keys, labels, *_, text = world(3, 2, 1)
    factors = tip.fit(keys, labels, 3, None, None, text, SCALE)
    with pytest.raises(MmlopError, match="3 candidates need 3 columns, each None or 0 to 2"):
        tip.logits(factors, keys, text, SCALE, columns)
