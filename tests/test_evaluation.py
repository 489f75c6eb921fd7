"""Accuracies, calibration and the paired test against loops over plain numbers."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop import evaluation as ev


@st.composite
def scored(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels; coarse values, so that confidences repeat and fall on bin edges."""
    classes, pictures = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    value = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, math.log(2), math.log(3), 4.0, 40.0])
    logits = draw(st.lists(st.lists(value, min_size=classes, max_size=classes), min_size=pictures, max_size=pictures))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=pictures, max_size=pictures))
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


def slow_prediction(row: list[float]) -> int:
    best = 0
    for index, value in enumerate(row):
        if value > row[best]:
            best = index
    return best


def slow_confidence(row: list[float]) -> float:
    return 1 / sum(math.exp(value - max(row)) for value in row)


def slow_ece(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    """Bin by bin, as published: |B| / N times |accuracy - confidence|."""
    rows, error = logits.tolist(), 0.0
    confidences = logits.softmax(dim=1).max(dim=1).values.tolist()
    for k in range(bins):
        inside = [i for i, c in enumerate(confidences) if k < c * bins <= k + 1]  # rounded alike at the edges
        if inside:
            accuracy = sum(slow_prediction(rows[i]) == labels[i].item() for i in inside) / len(inside)
            confidence = sum(slow_confidence(rows[i]) for i in inside) / len(inside)
            error += len(inside) / len(rows) * abs(accuracy - confidence)
    return 100 * error


@settings(max_examples=80, deadline=None)
@given(scored())
def test_accuracies_equal_counting(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = example
    classes = logits.shape[1]
    predictions = [slow_prediction(row) for row in logits.tolist()]
    counts = [[0] * classes for _ in range(classes)]
    for label, predicted in zip(labels.tolist(), predictions, strict=True):
        counts[label][predicted] += 1
    assert ev.confusion(logits, labels).tolist() == counts
    assert ev.top1(logits, labels) == pytest.approx(100 * sum(counts[c][c] for c in range(classes)) / len(labels))
    expected = [100 * row[c] / sum(row) if sum(row) else None for c, row in enumerate(counts)]
    assert ev.per_class(logits, labels) == expected


@settings(max_examples=80, deadline=None)
@given(scored(), st.sampled_from([1, 2, 4, 10, 12, 15]))
def test_calibration_error_equals_its_loop(example: tuple[torch.Tensor, torch.Tensor], bins: int) -> None:
    logits, labels = example
    assert ev.calibration_error(logits, labels, bins) == pytest.approx(slow_ece(logits, labels, bins), abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(scored(), st.sampled_from([1, 2, 4, 10, 12, 15]))
def test_reliability_equals_its_loop(example: tuple[torch.Tensor, torch.Tensor], bins: int) -> None:
    logits, labels = example
    found, rows = ev.reliability(logits, labels, bins), logits.tolist()
    confidences = logits.softmax(dim=1).max(dim=1).values.tolist()
    assert len(found) == bins
    for k, (count, sure, right) in enumerate(found):
        inside = [i for i, c in enumerate(confidences) if k < c * bins <= k + 1]  # rounded alike at the edges
        assert count == len(inside)
        if not inside:
            assert (sure, right) == (0, 0)
            continue
        assert sure == pytest.approx(100 * sum(slow_confidence(rows[i]) for i in inside) / count)
        assert right == pytest.approx(100 * sum(slow_prediction(rows[i]) == labels[i].item() for i in inside) / count)
        assert 100 * k / bins < sure * (1 + 1e-12)
        assert sure <= 100 * (k + 1) / bins * (1 + 1e-12)
    assert sum(count for count, _, _ in found) == len(labels)


@settings(max_examples=40, deadline=None)
@given(scored(), st.sampled_from([1, 4, 15]))
def test_calibration_error_and_accuracy_follow_from_reliability(
    example: tuple[torch.Tensor, torch.Tensor], bins: int
) -> None:
    found = ev.reliability(*example, bins)
    gaps = sum(count * abs(sure - right) for count, sure, right in found)
    assert ev.calibration_error(*example, bins) == pytest.approx(gaps / len(example[1]), abs=1e-12)
    assert ev.top1(*example) == pytest.approx(sum(count * right for count, _, right in found) / len(example[1]))


@pytest.mark.parametrize("classes", range(2, 13))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(classes: int) -> None:
    # Confidence 1/C is the upper edge of bin 0 of C bins; the other picture, just above it, is in bin 1.
    flat, above = [0.0] * classes, [0.02] + [0.0] * (classes - 1)
    logits, labels = torch.tensor([flat, above], dtype=torch.float64), torch.tensor([0, 1])
    low, high = 1 / classes, slow_confidence(above)
    assert ev.calibration_error(logits, labels, bins=classes) == pytest.approx(50 * (1 - low) + 50 * high)


def test_calibration_of_certainty() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert ev.calibration_error(logits, torch.tensor([0, 1])) == 0
    assert ev.calibration_error(logits, torch.tensor([1, 0])) == 100


def slow_surprise(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Mean cross-entropy, picture by picture, of labels that count for (N + 1) / (N + 2) and others for the rest."""
    total, (count, classes) = 0.0, logits.shape
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        scaled = [value / temperature for value in row]
        log_sum = max(scaled) + math.log(sum(math.exp(value - max(scaled)) for value in scaled))
        for index, value in enumerate(scaled):
            share = (count + 1) / (count + 2) if index == label else 1 / (count + 2) / (classes - 1)
            total += share * (log_sum - value)
    return total / count


@settings(max_examples=60, deadline=None)
@given(scored())
def test_the_temperature_is_the_most_likely_one(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = ev.temperature(*example)
    assert found + 1e-4 >= 1 / 20
    assert found <= 20
    least = slow_surprise(*example, found)
    for step in range(61):
        assert least <= slow_surprise(*example, 20 ** (step / 30 - 1)) + 1e-4
    assert ev.temperature(*example) == found


def test_a_temperature_undoes_a_known_one() -> None:
    """Labels drawn from the probabilities themselves, then scores three times as sure."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = logits.softmax(dim=1).multinomial(1, generator=generator).squeeze(1)
    assert ev.temperature(logits, labels) == pytest.approx(1, abs=0.03)
    assert ev.temperature(3 * logits, labels) == pytest.approx(3, abs=0.09)
    assert ev.calibration_error(3 * logits, labels) > 10 > 2 > ev.calibration_error(logits, labels)


def test_without_pictures_or_a_choice_the_temperature_is_one() -> None:
    assert ev.temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.long)) == 1
    assert ev.temperature(torch.ones(4, 1), torch.zeros(4, dtype=torch.long)) == 1


@pytest.mark.parametrize("count", [1, 4, 100])
def test_pictures_that_are_all_right_do_not_make_certain(count: int) -> None:
    """Two classes, a gap of 2: the confidence becomes what the labels count for."""
    logits, labels = torch.tensor([[2.0, 0.0]] * count), torch.zeros(count, dtype=torch.long)
    confidence = (logits / ev.temperature(logits, labels)).softmax(dim=1)[0, 0].item()
    assert confidence == pytest.approx((count + 1) / (count + 2), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(scored(), st.integers(1, 5))
def test_groups_are_measured_among_their_own_classes(example: tuple[torch.Tensor, torch.Tensor], cut: int) -> None:
    logits, labels = example
    classes = logits.shape[1]
    cut = min(cut, classes - 1)
    groups = {"base": list(range(cut)), "novel": list(range(cut, classes)), "accuracy": list(range(classes))}
    metrics, shown = ev.by_group(lambda rows, some: logits[rows][:, some], labels, groups)
    for name, group in groups.items():
        rows = [index for index, label in enumerate(labels.tolist()) if label in group]
        if not rows:
            assert name not in metrics
            assert name not in shown
            continue
        within = [[logits[index, c].item() for c in group] for index in rows]
        right = sum(group[slow_prediction(row)] == labels[index] for row, index in zip(within, rows, strict=True))
        assert metrics[name] == pytest.approx(100 * int(right) / len(rows), abs=1e-4)
        counts = shown[name]["confusion"]
        assert [sum(row) for row in counts] == [labels.tolist().count(c) for c in group]
        assert sum(counts[c][c] for c in range(len(group))) == right
        error = slow_ece(
            torch.tensor(within, dtype=torch.float64), torch.tensor([group.index(labels[i]) for i in rows]), 15
        )
        assert metrics["ece" if name == "accuracy" else f"ece_{name}"] == pytest.approx(error, abs=1e-4)
        assert sum(count for count, _, _ in shown[name]["reliability"]) == len(rows)
    both = "base" in metrics and "novel" in metrics
    assert ("hm" in metrics) == both
    if both:
        assert metrics["hm"] == pytest.approx(ev.harmonic_mean(metrics["base"], metrics["novel"]), abs=1e-3)


accuracies = st.just(0.0) | st.floats(0.001, 100)


@given(accuracies, accuracies)
def test_harmonic_mean(base: float, novel: float) -> None:
    found = ev.harmonic_mean(base, novel)
    if base and novel:
        assert found == pytest.approx(1 / ((1 / base + 1 / novel) / 2), rel=1e-9)
    else:
        assert found == 0
    assert found == ev.harmonic_mean(novel, base)
    assert min(base, novel) * (1 - 1e-9) <= found <= (base + novel) / 2 * (1 + 1e-9)


def test_harmonic_mean_of_published_numbers() -> None:
    assert ev.harmonic_mean(69.34, 74.22) == pytest.approx(71.70, abs=0.005)  # CLIP, average over 11 data sets


def slow_p_value(old: list[bool], new: list[bool], resamples: int) -> float:
    generator, not_better = random.Random(7), 0
    for _ in range(resamples):
        drawn = [generator.randrange(len(old)) for _ in old]
        not_better += sum(new[i] - old[i] for i in drawn) <= 0
    return (1 + not_better) / (1 + resamples)


outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(outcomes)
def test_comparison_properties(pairs: list[tuple[bool, bool]]) -> None:
    old, new = [p[0] for p in pairs], [p[1] for p in pairs]
    forth, back = ev.compare(old, new, resamples=500), ev.compare(new, old, resamples=500)
    assert forth.pictures == back.pictures == len(pairs)
    assert (forth.champion, forth.challenger) == (back.challenger, back.champion)
    assert forth.champion == pytest.approx(100 * sum(old) / len(old))
    assert 0 < forth.p_value <= 1
    assert forth.p_value + back.p_value >= 0.9  # a resample never shows both better; 0.9 leaves room for the two draws
    if sum(new) <= sum(old):
        assert forth.p_value > 0.3
    assert ev.compare(old, old).p_value == 1
    assert ev.compare(old, new, resamples=500) == forth  # the same question, the same answer


@pytest.mark.parametrize(
    ("both", "won", "lost", "neither"),
    [(20, 8, 4, 10), (50, 5, 3, 2), (0, 6, 1, 30), (10, 3, 3, 10), (5, 2, 6, 0)],
)
def test_p_value_equals_slow_resampling(both: int, won: int, lost: int, neither: int) -> None:
    old = [True] * both + [False] * won + [True] * lost + [False] * neither
    new = [True] * both + [True] * won + [False] * lost + [False] * neither
    slow, found = slow_p_value(old, new, 3000), ev.compare(old, new, resamples=20_000).p_value
    error = math.sqrt(max(slow * (1 - slow), 1e-3) * (1 / 3000 + 1 / 20_000))
    assert abs(found - slow) < 4.5 * error


def test_a_clear_gain_is_significant_and_a_clear_loss_is_not() -> None:
    old, new = [False] * 30 + [True] * 30, [True] * 60
    assert ev.compare(old, new).p_value < 0.001
    assert ev.compare(new, old).p_value == 1


def test_nothing_to_compare() -> None:
    assert ev.compare([], []) == ev.Comparison(0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="2 and 3"):
        ev.compare([True, False], [True, False, True])
