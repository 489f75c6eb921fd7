"""Prompts: how many numbers are learned, how they are composed, and where training starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop.errors import MmlopError
from mmlop.prompts import PromptShape, compose, initialise

shapes = st.builds(
    lambda depth, tokens, rank, vision, text, shared: PromptShape(depth, tokens, min(rank, tokens), vision, text, shared),
    depth=st.integers(1, 4),
    tokens=st.integers(1, 6),
    rank=st.integers(1, 6),
    vision=st.integers(1, 24),
    text=st.integers(1, 24),
    shared=st.booleans(),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_papers_numbers() -> None:
    assert PromptShape(9, 4, 1, 768, 512).trainable == 11_556
    assert PromptShape(9, 4, 1, 768, 512, shared=False).trainable == 11_592


@settings(max_examples=50, deadline=None)
@given(shapes)
def test_trainable_is_the_formula_and_what_initialise_makes(shape: PromptShape) -> None:
    depth, n, r = shape.depth, shape.tokens, shape.rank
    ups = 1 if shape.shared else 2
    formula = depth * (ups * n * r + r * (shape.vision_width + shape.text_width))
    factors = initialise(shape, None, generator())
    assert shape.trainable == formula == sum(value.numel() for value in factors.values())
    assert {name: tuple(value.shape) for name, value in factors.items()} == shape.factors


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_compose_is_the_product_of_each_layers_factors(shape: PromptShape, seed: int) -> None:
    factors = {name: value.double() for name, value in initialise(shape, None, generator(seed)).items()}
    up_vision, up_text = (factors["U"],) * 2 if shape.shared else (factors["U_vision"], factors["U_text"])
    vision, text = compose(factors)
    for layer in range(shape.depth):
        for token in range(shape.tokens):
            for found, up, down in ((vision, up_vision, "V_vision"), (text, up_text, "V_text")):
                row = sum(up[layer, token, k] * factors[down][layer, k] for k in range(shape.rank))
                assert torch.allclose(found[layer, token], row, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [True, False])
def test_compose_keeps_leading_dimensions(shared: bool) -> None:
    shape = PromptShape(2, 3, 2, 8, 6, shared)
    several = [initialise(shape, None, generator(seed)) for seed in range(4)]
    vision, text = compose({name: torch.stack([one[name] for one in several]) for name in shape.factors})
    assert vision.shape == (4, 2, 3, 8)
    assert text.shape == (4, 2, 3, 6)
    for index, factors in enumerate(several):
        alone = compose(factors)
        assert torch.allclose(vision[index], alone[0], atol=1e-6)
        assert torch.allclose(text[index], alone[1], atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("words", [4, 6])
def test_layer_zero_starts_as_the_best_approximation_of_the_words(rank: int, words: int, shared: bool) -> None:
    shape = PromptShape(3, 4, rank, 10, 12, shared)
    embedded = torch.randn(words, 12, generator=generator(5)) * 0.3
    factors = initialise(shape, embedded, generator())
    text = compose(factors)[1]
    left, strength, right = np.linalg.svd(embedded[-4:].double().numpy(), full_matrices=False)
    best = (left[:, :rank] * strength[:rank]) @ right[:rank]
    assert np.allclose(text[0].numpy(), best, atol=1e-5)
    if rank == 4:
        assert np.allclose(text[0].numpy(), embedded[-4:].numpy(), atol=1e-5)
    up = factors["U" if shared else "U_text"][0]
    assert up.norm(dim=0).numpy() == pytest.approx((4 / rank) ** 0.5, rel=1e-5)  # the size it has elsewhere on average
    random = initialise(shape, None, generator())
    for name, value in factors.items():  # the other layers do not depend on the words
        assert torch.equal(value[1:], random[name][1:])
    assert torch.equal(factors["V_vision"], random["V_vision"])


def test_a_short_template_fills_the_first_rows() -> None:
    shape = PromptShape(2, 4, 4, 10, 12)  # full rank: nothing is lost
    embedded = torch.randn(2, 12, generator=generator(5))
    text = compose(initialise(shape, embedded, generator()))[1]
    random = compose(initialise(shape, None, generator()))[1]
    assert torch.allclose(text[0, :2], embedded, atol=1e-5)
    assert torch.allclose(text[0, 2:], random[0, 2:], atol=1e-5)


def test_an_empty_template_is_a_random_start() -> None:
    shape = PromptShape(2, 4, 1, 10, 12)
    with_nothing, without = (initialise(shape, words, generator()) for words in (torch.empty(0, 12), None))
    assert all(torch.equal(with_nothing[name], without[name]) for name in shape.factors)


def test_random_factors_have_the_documented_spread() -> None:
    factors = initialise(PromptShape(40, 16, 4, 300, 300), None, generator())
    assert factors["U"].std().item() == pytest.approx(0.5, rel=0.05)
    assert factors["V_vision"].std().item() == pytest.approx(0.02, rel=0.05)
    assert factors["V_text"].std().item() == pytest.approx(0.02, rel=0.05)


def test_the_seed_decides_the_factors_whatever_else_was_drawn() -> None:
    shape = PromptShape(3, 4, 2, 10, 12)
    words = torch.randn(4, 12, generator=generator(9))
    first = initialise(shape, words, generator(1))
    torch.randn(17)  # the global generator is not used
    again, other = initialise(shape, words, generator(1)), initialise(shape, words, generator(2))
    assert all(torch.equal(first[name], again[name]) for name in shape.factors)
    assert not any(torch.equal(first[name], other[name]) for name in shape.factors)


@pytest.mark.parametrize(
    ("depth", "tokens", "rank", "sentence"),
    [
        (9, 4, 5, "prompts.rank is 5, but 4 prompt tokens have rank 1 to 4"),
        (9, 4, 0, "prompts.rank is 0, but 4 prompt tokens have rank 1 to 4"),
        (0, 4, 1, "prompts.depth is 0: it must be at least 1"),
        (9, 0, 1, "prompts.tokens is 0: at least 1"),
    ],
)
def test_impossible_shapes_are_refused(depth: int, tokens: int, rank: int, sentence: str) -> None:
    with pytest.raises(MmlopError, match=sentence):
        PromptShape(depth, tokens, rank, 768, 512)
