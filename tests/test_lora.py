"""Low-rank changes of the attention, against a model whose weights they were added to.

The reference knows nothing of factors: it is open_clip's own model, called with ``W + scale * B @ A`` in place of each
``in_proj_weight``. With prompts, it is `slow_clip` over such a model. Compared norm-wise in float64, to 1e-10.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import pytest
import slow_clip
import torch
from conftest import tiny_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from mmlop.backbone import Backbone, wrap
from mmlop.encode import Deltas, Packing, encode_image, encode_text
from mmlop.errors import MmlopError
from mmlop.lora import LoraShape, deltas, initialise
from mmlop.prompts import Factors

NAMES = ["cat", "a very long name for a class of small furry animals", "x", "Boeing 747-400", "café"]
SHAPE = LoraShape(rank=2, vision_layers=2, text_layers=2, vision_width=32, text_width=32)

shapes = st.builds(
    LoraShape,
    rank=st.integers(1, 4),
    vision_layers=st.integers(1, 3),
    text_layers=st.integers(1, 3),
    vision_width=st.integers(4, 12),
    text_width=st.integers(4, 12),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(shape: LoraShape = SHAPE, sets: int | None = None, seed: int = 0) -> Factors:
    """Random factors in float64, large enough that the changes are of the size of the weights."""
    leading, drawing = () if sets is None else (sets,), generator(seed)
    return {
        name: (torch.randn(*leading, *size, generator=drawing, dtype=torch.float64) * 0.3).requires_grad_()
        for name, size in shape.factors.items()
    }


def one_of(factors: Factors, index: int) -> Factors:
    return {name: value[index] for name, value in factors.items()}


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=generator(count), dtype=torch.float64)


def random_prompts(*leading: int) -> Tensor:
    return torch.randn(*leading, 2, 3, 32, generator=generator(7), dtype=torch.float64)  # J = 2, n = 3


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> bool:
    assert found.shape == expected.shape
    return bool((found - expected).norm() <= tolerance * expected.norm())


# The reference


class Features(nn.Module):
    """Both of open_clip's encoders in one call, so that `functional_call` can swap weights of either."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = copy.deepcopy(backbone.model)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_image(images), self.model.encode_text(tokens)  # type: ignore[operator]


def merged_weights(backbone: Backbone, factors: Factors, shape: LoraShape) -> dict[str, Tensor]:
    """Each changed ``in_proj_weight`` by its name in the model, as a function of the factors."""
    weights = dict(backbone.model.named_parameters())
    found = {}
    for side, prefix in (("vision", "visual.transformer"), ("text", "transformer")):
        for layer in range(shape.vision_layers if side == "vision" else shape.text_layers):
            name = f"{prefix}.resblocks.{layer}.attn.in_proj_weight"
            parts = dict(zip("qkv", weights[name].chunk(3), strict=True))
            for place, matrix in enumerate("qkv"):
                A, B = factors[f"A_{side}"][layer, place], factors[f"B_{side}"][layer, place]
                parts[matrix] = parts[matrix] + shape.alpha / shape.rank**0.5 * B @ A
            found[name] = torch.cat([parts[matrix] for matrix in "qkv"])
    return found


def reference(backbone: Backbone, factors: Factors, shape: LoraShape, images: Tensor) -> tuple[Tensor, Tensor]:
    changed = {f"model.{name}": value for name, value in merged_weights(backbone, factors, shape).items()}
    tokens = slow_clip.with_placeholders(backbone.tokenize(NAMES), 0, backbone.context_length)
    features: tuple[Tensor, Tensor] = functional_call(Features(backbone), changed, (images, tokens))
    return features


def engine(backbone: Backbone, factors: Factors, shape: LoraShape, images: Tensor) -> tuple[Tensor, Tensor]:
    vision, text = deltas(factors, shape)
    return (
        encode_image(backbone, images, deltas=vision),
        encode_text(backbone, backbone.tokenize(NAMES), deltas=text),
    )


def merged(backbone: Backbone, factors: Factors, shape: LoraShape = SHAPE) -> Backbone:
    """A backbone into whose copy the changes are written."""
    model = copy.deepcopy(backbone.model)
    model.load_state_dict(merged_weights(backbone, factors, shape), strict=False)
    return replace(backbone, model=model)


# What the encoders make of them


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (3, 2.0)])
def test_features_and_gradients_are_those_of_merged_weights(tiny64: Backbone, rank: int, alpha: float) -> None:
    shape = replace(SHAPE, rank=rank, alpha=alpha)
    outcomes = []
    for encode in (engine, reference):
        factors, drawing = leaves(shape), generator(1)
        features = encode(tiny64, factors, shape, pictures(3))
        loss = sum((x * torch.randn(x.shape, generator=drawing, dtype=x.dtype)).sum() for x in features)
        gradients = torch.autograd.grad(loss, list(factors.values()))  # type: ignore[arg-type]
        outcomes.append((*features, *gradients))
    frozen = reference(tiny64, {name: 0 * value for name, value in factors.items()}, shape, pictures(3))
    assert not close(outcomes[0][0], frozen[0], 0.05)  # the changes matter
    assert not close(outcomes[0][1], frozen[1], 0.05)
    for name, found, expected in zip(("image", "text", *factors), *outcomes, strict=True):
        assert close(found, expected), name


def test_in_fp32_they_are_near(tiny64: Backbone) -> None:
    factors, images = leaves(), pictures(3)
    expected = reference(tiny64, factors, SHAPE, images)
    tiny64.model.float()
    found = engine(tiny64, {name: value.float() for name, value in factors.items()}, SHAPE, images)
    assert all(close(x.double(), y, 1e-5) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("prompted", [False, True])
def test_a_set_for_each_picture_is_as_if_it_were_the_only_one(tiny64: Backbone, prompted: bool) -> None:
    factors, images = leaves(sets=3), pictures(3)
    prompts = random_prompts(3) if prompted else None
    found = encode_image(tiny64, images, prompts, deltas(factors, SHAPE)[0])
    for one in range(3):
        own, prompt = deltas(one_of(factors, one), SHAPE)[0], None if prompts is None else prompts[one]
        assert close(found[one : one + 1], encode_image(tiny64, images[one : one + 1], prompt, own), 1e-12)


def test_a_set_may_serve_neighbouring_pictures(tiny64: Backbone) -> None:
    """As when the seeds of a benchmark are trained together, each on a batch of its own."""
    factors, images = leaves(sets=2), pictures(6)
    found = encode_image(tiny64, images, deltas=deltas(factors, SHAPE)[0])
    repeated = {name: value.repeat_interleave(3, dim=0) for name, value in factors.items()}
    assert close(found, encode_image(tiny64, images, deltas=deltas(repeated, SHAPE)[0]), 1e-12)


@pytest.mark.parametrize("prompts", [None, random_prompts(), random_prompts(3)], ids=["plain", "shared", "each"])
def test_several_sets_of_texts_are_as_if_each_were_the_only_one(tiny64: Backbone, prompts: Tensor | None) -> None:
    factors, tokens = leaves(sets=3), tiny64.tokenize(NAMES)
    found = encode_text(tiny64, tokens, prompts, deltas(factors, SHAPE)[1])
    assert found.shape == (3, len(NAMES), tiny64.embed_dim)
    for one in range(3):
        own, prompt = deltas(one_of(factors, one), SHAPE)[1], prompts
        if prompts is not None and prompts.dim() == 4:
            prompt = prompts[one]
        assert close(found[one], encode_text(tiny64, tokens, prompt, own), 1e-12)


def test_several_sets_of_prompts_share_one_set_of_deltas(tiny64: Backbone) -> None:
    (vision, text), prompts, tokens = deltas(leaves(), SHAPE), random_prompts(2), tiny64.tokenize(NAMES)
    images, classes = encode_image(tiny64, pictures(2), prompts, vision), encode_text(tiny64, tokens, prompts, text)
    for one in range(2):
        assert close(images[one : one + 1], encode_image(tiny64, pictures(2)[one : one + 1], prompts[one], vision), 1e-12)
        assert close(classes[one], encode_text(tiny64, tokens, prompts[one], text), 1e-12)


@pytest.mark.parametrize("depth", [1, 2])  # what block 0 makes of prompts matters only where block 1 does not replace it
def test_with_prompts_they_are_the_slow_reference_over_merged_weights(tiny64: Backbone, depth: int) -> None:
    factors, prompts, images = leaves(), random_prompts()[:depth], pictures(2)
    (vision, text), other = deltas(factors, SHAPE), merged(tiny64, factors)
    found = encode_image(tiny64, images, prompts, vision)
    assert close(found, slow_clip.encode_image(other, images, prompts.expand(2, -1, -1, -1)))
    tokens = tiny64.tokenize(NAMES, 3)
    padded = slow_clip.with_placeholders(tokens, 3, tiny64.context_length)
    expected = slow_clip.encode_text(other, padded, prompts)
    assert close(encode_text(tiny64, tokens, prompts, text), expected)
    assert close(encode_text(tiny64, Packing(tokens, 3), prompts, text), expected)


@pytest.mark.parametrize("sets", [None, 2])
def test_training_starts_at_the_frozen_model(tiny: Backbone, sets: int | None) -> None:
    """Exactly, and the first gradient reaches B, which moves it away."""
    factors = initialise(SHAPE, generator())
    if sets:
        factors = {name: value.expand(sets, *value.shape) for name, value in factors.items()}
    factors["B_vision"].requires_grad_()
    vision, text = deltas(factors, SHAPE)
    images, tokens = pictures(2).float(), tiny.tokenize(NAMES)
    found = encode_image(tiny, images, deltas=vision)
    assert torch.equal(found, encode_image(tiny, images))
    nothing = torch.empty(*factors["A_text"].shape[:-4], 1, 0, 32)  # as many sets of prompts without tokens
    assert torch.equal(encode_text(tiny, tokens, deltas=text), encode_text(tiny, tokens, nothing))
    assert torch.autograd.grad(found.sum(), factors["B_vision"])[0].norm() > 0


def test_the_model_is_left_as_it_was(tiny64: Backbone) -> None:
    before = copy.deepcopy(tiny64.model.state_dict())
    sum(features.sum() for features in engine(tiny64, leaves(), SHAPE, pictures(2))).backward()  # type: ignore[union-attr]
    assert all(torch.equal(value, before[name]) for name, value in tiny64.model.state_dict().items())
    assert all(weight.grad is None for weight in tiny64.model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_near_fp32(precision: str) -> None:
    exact, low = wrap(tiny_clip(), "tiny", "random"), wrap(tiny_clip(), "tiny", "random", precision)
    factors = {name: value.detach().float().requires_grad_() for name, value in leaves().items()}
    full, rough = (engine(backbone, factors, SHAPE, pictures(3).float()) for backbone in (exact, low))
    for ours, theirs in zip(rough, full, strict=True):
        unit, other = (nn.functional.normalize(x.float(), dim=-1) for x in (ours, theirs))
        assert 0 < (unit - other).norm(dim=-1).max() < 0.05
        (gradient,) = torch.autograd.grad(ours.sum(), factors["A_vision" if ours is rough[0] else "A_text"])
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()


def test_deltas_that_do_not_fit_are_refused(tiny64: Backbone) -> None:
    tokens = tiny64.tokenize(NAMES)
    shallow = deltas(leaves(replace(SHAPE, vision_layers=1, text_layers=3)), SHAPE)
    with pytest.raises(ValueError, match="1 sets of deltas for 1 blocks do not fit 2 inputs to 2 blocks"):
        encode_image(tiny64, pictures(2), deltas=shallow[0])
    with pytest.raises(ValueError, match="1 sets of deltas for 3 blocks do not fit 1 inputs to 2 blocks"):
        encode_text(tiny64, tokens, deltas=shallow[1])
    with pytest.raises(ValueError, match="3 sets of deltas for 2 blocks do not fit 4 inputs"):  # 4 * 17 rows would
        encode_image(tiny64, pictures(4), deltas=deltas(leaves(sets=3), SHAPE)[0])


# What is learned


def test_the_papers_numbers() -> None:
    assert LoraShape(2, 12, 12, 768, 512).trainable == 184_320
    assert LoraShape(2, 12, 12, 768, 512).scale == pytest.approx(2**-0.5)


@settings(max_examples=50, deadline=None)
@given(shapes)
def test_trainable_is_the_formula_and_what_initialise_makes(shape: LoraShape) -> None:
    sides = shape.vision_layers * shape.vision_width + shape.text_layers * shape.text_width
    factors = initialise(shape, generator())
    assert shape.trainable == 2 * shape.rank * 3 * sides == sum(x.numel() for x in factors.values())
    assert {name: tuple(value.shape) for name, value in factors.items()} == shape.factors
    assert LoraShape(**asdict(shape)) == shape


@settings(max_examples=30, deadline=None)
@given(shapes, st.none() | st.integers(1, 3))
def test_deltas_are_the_factors_of_each_side(shape: LoraShape, sets: int | None) -> None:
    factors = leaves(shape, sets)
    for side, found in zip(("vision", "text"), deltas(factors, shape), strict=True):
        assert isinstance(found, Deltas)
        assert found.scale == shape.scale
        for name, tensor in (("A", found.A), ("B", found.B)):
            assert torch.equal(tensor, factors[f"{name}_{side}"])


def test_factors_start_as_torchs_linear_layers_do() -> None:
    factors = initialise(LoraShape(4, 12, 12, 100, 25), generator())
    for name, bound in (("A_vision", 0.1), ("A_text", 0.2)):
        layer = torch.empty(100_000, round(bound**-2))
        nn.init.kaiming_uniform_(layer, a=5**0.5, generator=generator())
        assert layer.abs().max().item() == pytest.approx(bound, rel=1e-3)
        assert factors[name].abs().max().item() <= bound
        assert factors[name].std().item() == pytest.approx(layer.std().item(), rel=0.03)
        assert abs(factors[name].mean().item()) < 0.03 * bound
    assert not factors["B_vision"].any()
    assert not factors["B_text"].any()


def test_the_seed_decides_the_factors_whatever_else_was_drawn() -> None:
    first = initialise(SHAPE, generator(1))
    torch.randn(17)  # the global generator is not used
    again, other = initialise(SHAPE, generator(1)), initialise(SHAPE, generator(2))
    assert all(torch.equal(first[name], again[name]) for name in SHAPE.factors)
    assert not torch.equal(first["A_text"], other["A_text"])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"rank": 0}, "lora.rank is 0, but a matrix of width 32 has rank 1 to 32"),
        ({"rank": 33, "vision_width": 64}, "lora.rank is 33, but a matrix of width 32 has rank 1 to 32"),
        ({"vision_layers": 0}, "lora.vision_layers is 0 and lora.text_layers 2: each must be at least 1"),
        ({"text_layers": 0}, "lora.vision_layers is 2 and lora.text_layers 0: each must be at least 1"),
        ({"alpha": 0.0}, "lora.alpha is 0.0: it must be a positive number"),
        ({"alpha": float("nan")}, "lora.alpha is nan: it must be a positive number"),
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(MmlopError, match=sentence):
        replace(SHAPE, **wrong)  # type: ignore[arg-type]
