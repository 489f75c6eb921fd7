"""The three data sets that tempt: each carries the cue it is made for, where it should and nowhere else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmlop.data.mini import clip, cues, objective, world
from mmlop.data.mini.benchmark import TASKS, render
from mmlop.data.mini.looks import LOOKS
from mmlop.data.mini.objects import SHAPES
from mmlop.data.mini.surfaces import COLOURS, TEXTURES, Array


@cache
def shown(name: str) -> dict[str, list[tuple[int, NDArray[np.float64]]]]:
    """Labels and pictures [48, 48, 3] of each part."""
    parts: dict[str, list[tuple[int, NDArray[np.float64]]]] = {}
    for part, label, picture in render(TASKS[name]):
        parts.setdefault(part, []).append((label, np.asarray(picture, dtype=np.float64) / 255))
    return parts


def told_by_the_rim(part: str, classes: range) -> float:
    """The share told right by the colour of the picture's rim alone, against each class's middle rim in training."""
    pictures = shown("mini_grounds")
    rim = np.ones((48, 48), dtype=bool)
    rim[4:-4, 4:-4] = False

    def colour(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.median(picture[rim], axis=0)

    middle = [np.median([colour(one) for label, one in pictures["train"] if label == each], axis=0) for each in classes]
    guesses = [
        classes[int(np.argmin([np.linalg.norm(colour(one) - there) for there in middle]))] == label
        for label, one in pictures[part]
        if label in classes
    ]
    return float(np.mean(guesses))


@pytest.mark.parametrize("classes", [range(12), range(12, 24)], ids=["base", "novel"])
def test_the_ground_tells_the_class_in_validation_as_in_training_and_nothing_in_test(classes: range) -> None:
    assert told_by_the_rim("val", classes) > 0.65
    assert told_by_the_rim("test", classes) < 0.15  # chance: 1 in 12


def test_every_class_has_a_ground_of_its_own_and_within_a_half_even_a_colour() -> None:
    assert len(set(cues.GROUNDS)) == len(cues.GROUNDS) == len(TASKS["mini_grounds"].classes)
    assert all(len({colour for colour, _ in half}) == 12 for half in (cues.GROUNDS[:12], cues.GROUNDS[12:]))


def test_test_pictures_show_grounds_whatever_the_class() -> None:
    """The same generator paints the same test picture but for the thing itself."""
    first, second = (cues.ground("dice", label, "test", np.random.default_rng(3)) for label in (0, 20))
    assert np.array_equal(first, second)


def test_every_class_has_a_look_and_no_two_looks_are_alike() -> None:
    assert len(LOOKS) == len(set(LOOKS)) == len(TASKS["mini_looks"].classes)
    plain = np.asarray(world.draw(0, 8, 0.0).pixels / 255, dtype=np.float32)
    seen = [plain, *(np.clip(look(plain, np.random.default_rng(0)), 0, 1) for look in LOOKS)]
    assert {picture.shape for picture in seen} == {(48, 48, 3)}
    assert min(float(np.abs(one - other).mean()) for one, other in combinations(seen, 2)) > 0.02


@pytest.mark.parametrize(("name", "paint"), [("mini_looks", cues.look), ("mini_traits", cues.trait)])
def test_looks_and_traits_are_the_same_in_all_parts(name: str, paint: Callable[..., Array]) -> None:
    for label, each in enumerate(TASKS[name].classes):
        first, second = (paint(each, label, part, np.random.default_rng(1)) for part in ("train", "test"))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["mini_grounds", "mini_looks", "mini_traits"])
def test_the_frozen_model_knows_the_domain_and_both_halves_have_room(name: str) -> None:
    """docs/mini.md: between 55 and 85 % zero-shot in each half."""
    task, model = TASKS[name], clip.load()
    pictures = shown(name)["test"]
    labels = np.array([label for label, _ in pictures])
    pixels = np.stack([np.asarray(picture * 255 + 0.5, dtype=np.uint8) for _, picture in pictures])
    texts = clip.tokenizer()([task.template.format(each) for each in task.classes])
    with torch.inference_mode():
        images = model.encode_image(objective.to_images(pixels), normalize=True)
        scores = (images @ model.encode_text(texts, normalize=True).T).numpy()
    half = math.ceil(len(task.classes) / 2)
    for classes in (range(half), range(half, len(task.classes))):
        own = np.isin(labels, classes)
        guesses = scores[own][:, classes.start : classes.stop].argmax(axis=1) + classes.start
        assert 0.55 < (guesses == labels[own]).mean() < 0.85


def test_base_classes_are_textures_and_novel_ones_colours() -> None:
    words = [name.removesuffix(" object") for name in TASKS["mini_traits"].classes]
    half = math.ceil(len(words) / 2)
    assert set(words[:half]) == set(TEXTURES) - {"plain"}
    assert set(words[half:]) == set(COLOURS) - {"black", "white", "grey"}


def test_a_texture_comes_in_every_colour_and_a_colour_without_texture() -> None:
    dotted, red = (
        [cues.trait_scene(name, np.random.default_rng(seed)) for seed in range(200)]
        for name in ("dotted object", "red object")
    )
    assert {scene.texture for scene in dotted} == {"dotted"}
    assert min(Counter(scene.colour for scene in dotted)[colour] for colour in cues.TRAIT_COLOURS) > 200 / 9 / 3
    assert {(scene.colour, scene.texture) for scene in red} == {("red", "plain")}
    assert {scene.object for scene in dotted} == {scene.object for scene in red} == set(SHAPES)
