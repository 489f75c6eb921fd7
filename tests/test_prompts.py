"""Prompts: how many numbers are learned, how they are composed, and where training starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop.errors import MmlopError
from mmlop.prompts import Encoders, Form, PromptShape, compose, initialise

shapes = st.builds(
    lambda depth, tokens, rank, vision, text, form: PromptShape(depth, tokens, min(rank, tokens), vision, text, form),
    depth=st.integers(1, 4),
    tokens=st.integers(1, 6),
    rank=st.integers(1, 6),
    vision=st.integers(1, 24),
    text=st.integers(1, 24),
    form=st.sampled_from(["shared", "low_rank"]),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_papers_numbers() -> None:
    assert PromptShape(9, 4, 1, 768, 512).trainable == 11_556
    assert PromptShape(9, 4, 1, 768, 512, "low_rank").trainable == 11_592


@settings(max_examples=50, deadline=None)
@given(shapes)
def test_trainable_is_the_formula_and_what_initialise_makes(shape: PromptShape) -> None:
    depth, n, r = shape.depth, shape.tokens, shape.rank
    ups = 1 if shape.form == "shared" else 2
    formula = depth * (ups * n * r + r * (shape.vision_width + shape.text_width))
    factors = initialise(shape, None, generator())
    assert shape.trainable == formula == sum(value.numel() for value in factors.values())
    assert {name: tuple(value.shape) for name, value in factors.items()} == shape.factors


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_compose_is_the_product_of_each_layers_factors(shape: PromptShape, seed: int) -> None:
    factors = {name: value.double() for name, value in initialise(shape, None, generator(seed)).items()}
    up_vision, up_text = (factors["U"],) * 2 if shape.form == "shared" else (factors["U_vision"], factors["U_text"])
    vision, text = compose(factors)
    for layer in range(shape.depth):
        for token in range(shape.tokens):
            for found, up, down in ((vision, up_vision, "V_vision"), (text, up_text, "V_text")):
                row = sum(up[layer, token, k] * factors[down][layer, k] for k in range(shape.rank))
                assert torch.allclose(found[layer, token], row, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["shared", "low_rank"])
def test_compose_keeps_leading_dimensions(form: Form) -> None:
    shape = PromptShape(2, 3, 2, 8, 6, form)
    several = [initialise(shape, None, generator(seed)) for seed in range(4)]
    vision, text = compose({name: torch.stack([one[name] for one in several]) for name in shape.factors})
    assert vision.shape == (4, 2, 3, 8)
    assert text.shape == (4, 2, 3, 6)
    for index, factors in enumerate(several):
        alone = compose(factors)
        assert torch.allclose(vision[index], alone[0], atol=1e-6)
        assert torch.allclose(text[index], alone[1], atol=1e-6)


@pytest.mark.parametrize("form", ["shared", "low_rank"])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("words", [4, 6])
def test_layer_zero_starts_as_the_best_approximation_of_the_words(rank: int, words: int, form: Form) -> None:
    shape = PromptShape(3, 4, rank, 10, 12, form)
    embedded = torch.randn(words, 12, generator=generator(5)) * 0.3
    factors = initialise(shape, embedded, generator())
    text = compose(factors)[1]
    left, strength, right = np.linalg.svd(embedded[-4:].double().numpy(), full_matrices=False)
    best = (left[:, :rank] * strength[:rank]) @ right[:rank]
    assert np.allclose(text[0].numpy(), best, atol=1e-5)
    if rank == 4:
        assert np.allclose(text[0].numpy(), embedded[-4:].numpy(), atol=1e-5)
    up = factors["U" if form == "shared" else "U_text"][0]
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


# The other forms


def whole(form: Form, encoders: Encoders = "both", depth: int = 3, tokens: int = 4) -> PromptShape:
    """A shape without ranks."""
    return PromptShape(depth, tokens, None, 10, 12, form, encoders)


def test_the_family_on_vit_b_16() -> None:
    assert PromptShape(1, 4, None, 768, 512, "full", "text").trainable == 2_048  # CoOp
    assert PromptShape(12, 8, None, 768, 512, "full", "vision").trainable == 73_728  # VPT
    assert PromptShape(9, 4, None, 768, 512, "full").trainable == 46_080  # IVLP, PromptSRC
    assert PromptShape(9, 2, None, 768, 512, "coupled").trainable == 3_555_072  # MaPLe
    assert PromptShape(12, 8, 1, 768, 512, "low_rank", "vision").trainable == 12 * (8 + 768)


@pytest.mark.parametrize("encoders", ["both", "vision", "text"])
def test_full_prompts_are_what_is_learned(encoders: Encoders) -> None:
    shape = whole("full", encoders)
    factors = initialise(shape, None, generator())
    vision, text = compose(factors)
    sides = {"vision": (vision, 10), "text": (text, 12)}
    for side, (prompts, width) in sides.items():
        if encoders in ("both", side):
            assert prompts is factors[f"P_{side}"]
            assert prompts.shape == (3, 4, width)
            assert prompts.std().item() == pytest.approx(0.02, rel=0.2)
        else:
            assert prompts is None
    assert len(factors) == (2 if encoders == "both" else 1)
    assert shape.trainable == sum(value.numel() for value in factors.values())


@pytest.mark.parametrize(("encoders", "other"), [("vision", "text"), ("text", "vision")])
def test_low_rank_prompts_of_one_encoder(encoders: Encoders, other: str) -> None:
    shape = PromptShape(3, 4, 2, 10, 12, "low_rank", encoders)
    factors = initialise(shape, None, generator())
    assert set(factors) == {f"U_{encoders}", f"V_{encoders}"}
    found = dict(zip(("vision", "text"), compose(factors), strict=True))
    assert found[other] is None
    for layer in range(3):
        product = factors[f"U_{encoders}"][layer].double() @ factors[f"V_{encoders}"][layer].double()
        assert torch.allclose(found[encoders][layer].double(), product, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_coupled_image_prompts_are_mapped_from_the_texts(
    depth: int, tokens: int, vision: int, text: int, seed: int
) -> None:
    shape = PromptShape(depth, tokens, None, vision, text, "coupled")
    drawing = generator(seed)
    factors = {name: torch.randn(size, generator=drawing, dtype=torch.float64) for name, size in shape.factors.items()}
    image, words = compose(factors)
    assert words is factors["P_text"]
    assert image.shape == (depth, tokens, vision)
    for layer in range(depth):
        for token in range(tokens):
            for k in range(vision):
                row = sum(float(words[layer, token, j]) * float(factors["W"][layer, k, j]) for j in range(text))
                assert float(image[layer, token, k]) == pytest.approx(row + float(factors["b"][layer, k]), abs=1e-10)


def test_coupled_prompts_keep_leading_dimensions() -> None:
    shape = whole("coupled")
    several = [initialise(shape, None, generator(seed)) for seed in range(3)]
    vision, text = compose({name: torch.stack([one[name] for one in several]) for name in shape.factors})
    assert vision.shape == (3, 3, 4, 10)
    for index, factors in enumerate(several):
        alone = compose(factors)
        assert torch.allclose(vision[index], alone[0], atol=1e-6)
        assert torch.equal(text[index], alone[1])


def test_coupled_maps_start_as_linear_layers_and_alike_in_the_deep_blocks() -> None:
    """As in MaPLe's code, whose deep maps are copies of one layer; the first block has its own."""
    shape = PromptShape(4, 2, None, 300, 200, "coupled")
    factors = initialise(shape, None, generator())
    for name in ("W", "b"):
        first, *deep = factors[name]
        assert all(torch.equal(one, deep[0]) for one in deep)
        assert not torch.equal(first, deep[0])
        for one in (first, deep[0]):
            assert one.abs().max() <= 1 / 200**0.5
            assert one.abs().max() > 0.95 / 200**0.5
            assert one.std().item() == pytest.approx(1 / 200**0.5 / 3**0.5, rel=0.1)  # of a uniform distribution
            assert abs(one.mean().item()) < 0.15 / 200**0.5
    factors["W"][1] += 1  # each block trains its own copy
    assert not torch.equal(factors["W"][1], factors["W"][2])
    assert initialise(whole("coupled", depth=1), None, generator())["W"].shape == (1, 10, 12)


@pytest.mark.parametrize("words", [2, 4, 6])
@pytest.mark.parametrize(("form", "encoders"), [("full", "both"), ("full", "text"), ("coupled", "both")])
def test_layer_0_of_whole_text_prompts_is_the_words(form: Form, encoders: Encoders, words: int) -> None:
    shape = whole(form, encoders)
    embedded = torch.randn(words, 12, generator=generator(5))
    factors, random = initialise(shape, embedded, generator()), initialise(shape, None, generator())
    known = min(words, 4)
    assert torch.equal(factors["P_text"][0, :known], embedded[-4:])
    assert torch.equal(factors["P_text"][0, known:], random["P_text"][0, known:])
    assert torch.equal(factors["P_text"][1:], random["P_text"][1:])
    assert all(torch.equal(factors[name], random[name]) for name in shape.factors if name != "P_text")


def test_words_mean_nothing_to_image_prompts() -> None:
    for shape in (whole("full", "vision"), PromptShape(3, 4, 2, 10, 12, "low_rank", "vision")):
        with_words, without = (initialise(shape, words, generator()) for words in (torch.ones(4, 12), None))
        assert all(torch.equal(with_words[name], without[name]) for name in shape.factors)


def test_the_caller_keeps_its_words() -> None:
    embedded = torch.randn(6, 12, generator=generator(5), dtype=torch.float64)
    before = embedded.clone()
    factors = initialise(whole("full"), embedded, generator())
    factors["P_text"].zero_()
    assert torch.equal(embedded, before)


@pytest.mark.parametrize(
    ("rank", "form", "encoders", "sentence"),
    [
        (1, "shared", "text", "prompts.form is shared, which ties the two encoders together, but prompts.encoders is text"),
        (1, "shared", "vision", "but prompts.encoders is vision: choose both, or form full or low_rank"),
        (None, "coupled", "vision", "prompts.form is coupled, which ties the two encoders together"),
        (None, "coupled", "text", "prompts.form is coupled, which ties the two encoders together"),
        (
            1,
            "full",
            "both",
            "prompts.rank is 1, but prompts.form is full: forms low_rank and shared have a rank, others none",
        ),
        (1, "coupled", "both", "prompts.rank is 1, but prompts.form is coupled"),
        (None, "shared", "both", "prompts.rank is None, but prompts.form is shared"),
        (None, "low_rank", "text", "prompts.rank is None, but prompts.form is low_rank"),
    ],
)
def test_forms_that_do_not_fit_are_refused(rank: int | None, form: Form, encoders: Encoders, sentence: str) -> None:
    with pytest.raises(MmlopError, match=sentence):
        PromptShape(2, 4, rank, 10, 12, form, encoders)
