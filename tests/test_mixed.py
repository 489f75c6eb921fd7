"""Requests for different adapters in one batch: the same answers as alone, in as few forward passes as there are shapes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from make_adapter import CLASSES, make_adapter
from PIL import Image
from torch.nn.functional import normalize

from mmlop.adapter import Adapter
from mmlop.backbone import Backbone, load, wrap
from mmlop.classifier import Classifier
from mmlop.data.pictures import prepare
from mmlop.errors import MmlopError
from mmlop.lora import LoraShape
from mmlop.probe import ProbeShape
from mmlop.prompts import Factors, PromptShape
from mmlop.serving.mixed import Answer, Asked, answer
from mmlop.shapes import NoShape, Shape
from mmlop.tip import CacheShape

V, T, D = 32, 32, 16  # widths of the tiny CLIP's encoders, and of its joint space
SHAPES: dict[str, Shape] = {
    "mmlop": PromptShape(2, 3, 2, V, T),
    "mmlop, rank 1": PromptShape(2, 3, 1, V, T),  # other factors, prompts of the same shape
    "mmlop, 1 block": PromptShape(1, 3, 1, V, T),
    "maple": PromptShape(2, 2, None, V, T, form="coupled"),
    "vpt": PromptShape(2, 3, None, V, T, form="full", encoders="vision"),
    "coop": PromptShape(1, 4, None, V, T, form="full", encoders="text"),
    "lora": LoraShape(2, 2, 2, V, T),
    "lora, stronger": LoraShape(2, 2, 2, V, T, alpha=4.0),
    "lora, rank 1": LoraShape(1, 2, 2, V, T),
    "zero_shot": NoShape(),
    "tip_adapter": CacheShape(6, len(CLASSES), D),
    "linear_probe": ProbeShape(len(CLASSES), D),
}
PASSES = {"mmlop": 1, "mmlop, rank 1": 1, "vpt": 1, "mmlop, 1 block": 2, "maple": 3, "lora": 4, "lora, stronger": 4}
PASSES |= {"lora, rank 1": 5} | dict.fromkeys(("coop", "zero_shot", "tip_adapter", "linear_probe"), 6)
CANDIDATES = (
    None,
    ("dog", "rain", "a longer name of things"),
    ("sea_horse", "cat"),
    ("cat",),
    ("dog", "cat", "dog"),  # twice
    ("cat", "cat " * 80),  # too long
    (),
)
PICTURES = 5


def factors_of(shape: Shape, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    size = 0.25 if isinstance(shape, LoraShape) else 1.0
    drawn = {name: size * torch.randn(dims, generator=generator) for name, dims in shape.factors.items()}
    if isinstance(shape, CacheShape):
        return {"keys": normalize(drawn["keys"], dim=1), "values": drawn["values"], "strength": torch.tensor([2.0, 3.0])}
    return drawn


def made(backbone: Backbone, method: str, seed: int, **changes: Any) -> Classifier:
    shape = SHAPES[method]
    base = make_adapter(backbone, seed, PromptShape(1, 1, 1, V, T), temperature=1 + seed / 2, **changes)
    corrected = method.startswith(("mmlop", "lora")) and seed % 2 == 0
    changed = base.info.model_copy(update={"shape": shape, "method": method, "drift_correction": corrected})
    return Classifier(Adapter(factors_of(shape, seed), changed), backbone)


@cache
def classifiers() -> list[tuple[str, Classifier]]:
    """Two of every method on one backbone, and four on another."""
    one, two = (wrap(tiny_clip(seed), "tiny", str(seed)) for seed in (0, 1))
    found = [(method, made(one, method, seed)) for method in SHAPES for seed in (1, 2)]
    return found + [(method, made(two, method, 3)) for method in ("mmlop", "lora", "coop", "linear_probe")]


@cache
def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8))


@cache
def alone(which: int, seed: int, classes: tuple[str, ...] | None) -> dict[str, float] | str:
    try:
        (found,) = classifiers()[which][1].predict(picture(seed), classes)
    except MmlopError as error:
        return str(error)
    return dict(zip(found.labels, found.scores, strict=True))


def asked(which: int, seed: int, classes: tuple[str, ...] | None = None) -> Asked:
    return Asked(classifiers()[which][1], prepare(picture(seed), 32), classes)


def scores(found: Answer | MmlopError) -> dict[str, float] | str:
    if isinstance(found, MmlopError):
        return str(found)
    return dict(zip(found.classes, found.probabilities.tolist(), strict=True))


REQUESTS = st.tuples(st.integers(0, 27), st.integers(0, PICTURES - 1), st.sampled_from(CANDIDATES))


@settings(max_examples=40, deadline=None)
@given(st.lists(REQUESTS, max_size=24))
def test_company_makes_no_difference(requests: list[tuple[int, int, tuple[str, ...] | None]]) -> None:
    answers = answer([asked(*one) for one in requests])
    assert len(answers) == len(requests)
    for request, found in zip(requests, answers, strict=True):
        expected = alone(*request)
        if isinstance(expected, str):
            assert scores(found) == expected
        else:
            assert scores(found) == pytest.approx(expected, abs=1e-5)


def test_every_adapter_makes_a_difference() -> None:
    """Otherwise the test above would not see adapters taken for one another."""
    found = [tuple(scores(one).values()) for one in answer([asked(which, 0) for which in range(28)])]  # type: ignore[union-attr]
    same = [(a, b) for a in range(28) for b in range(a) if np.abs(np.subtract(found[a], found[b])).max() < 1e-4]
    names = {frozenset(classifiers()[which][0] for which in pair) for pair in same}
    assert names <= {frozenset({"zero_shot"})}  # which learned nothing


def test_the_features_are_those_of_the_adapter() -> None:
    for (_, classifier), found in zip(classifiers(), answer([asked(which, 1) for which in range(28)]), strict=True):
        assert isinstance(found, Answer)
        assert torch.allclose(found.features, classifier.features(prepare(picture(1), 32)[None])[0], atol=1e-5)
        assert found.features.norm() == pytest.approx(1, abs=1e-5)


def test_one_forward_pass_for_each_shape() -> None:
    passes = []
    hooks = [
        backbone.visual.conv1.register_forward_hook(lambda _, given, result: passes.append(len(result)))
        for backbone in {classifier.backbone for _, classifier in classifiers()}
    ]
    try:
        for which in (range(24), [*range(24)] * 5, [0, 0, 0], [0, 1], [0, 24]):
            passes.clear()
            answer([asked(one, 0) for one in which])
            known = [(classifiers()[one][1].backbone, PASSES[classifiers()[one][0]]) for one in which]
            assert sorted(passes) == sorted(known.count(one) for one in set(known))
    finally:
        for hook in hooks:
            hook.remove()


def test_more_than_one_chunk_of_pictures() -> None:
    requests = [(0 if place % 3 else 1, place % PICTURES, None) for place in range(300)]
    for request, found in zip(requests, answer([asked(*one) for one in requests]), strict=True):
        assert scores(found) == pytest.approx(alone(*request), abs=1e-5)


def test_a_probe_cannot_score_what_it_was_not_trained_on() -> None:
    probe = next(which for which, (method, _) in enumerate(classifiers()) if method == "linear_probe")
    good, bad, other = answer(
        [asked(probe, 0, ("dog", "cat")), asked(probe, 0, ("dog", "rain")), asked(0, 0, ("dog", "rain"))]
    )
    assert scores(good) == pytest.approx(alone(probe, 0, ("dog", "cat")), abs=1e-5)
    assert isinstance(bad, MmlopError)
    assert "was not trained on 'rain'" in str(bad)
    assert scores(other) == pytest.approx(alone(0, 0, ("dog", "rain")), abs=1e-5)


def test_two_classes_of_one_name_stay_two() -> None:
    classifier = made(classifiers()[0][1].backbone, "mmlop", 2, classes=("cat", "dog", "cat"))
    (found,) = answer([Asked(classifier, prepare(picture(0), 32))])
    assert isinstance(found, Answer)
    assert found.classes == ("cat", "dog", "cat")
    assert found.probabilities[0] == found.probabilities[2]


def test_a_word_that_the_backbone_never_saw() -> None:
    mini = load("mini")
    shape = PromptShape(3, 2, 1, mini.vision_width, mini.text_width)
    classifier = Classifier(make_adapter(mini, shape=shape, classes=("digit one", "digit two")), mini)
    pixels = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bad, good = answer([Asked(classifier, pixels, ("digit one", "zebra")), Asked(classifier, pixels)])
    assert isinstance(bad, MmlopError)
    assert "never saw the word 'zebra'" in str(bad)
    assert isinstance(good, Answer)
    assert torch.allclose(good.probabilities, classifier.probabilities(pixels[None])[0], atol=1e-6)


def test_nothing_asked() -> None:
    assert answer([]) == []
