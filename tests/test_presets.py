"""Every method that trains by gradient, from params.yaml to factors, against slow arithmetic in float64.

The reference knows each method by its formulas alone: prompts written out block by block, every row of every block
(`slow_clip`), open_clip's own model with changed weights for CLIP-LoRA, losses and optimisers as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slow_clip
import torch
from conftest import tiny_clip
from safetensors.torch import load_file
from test_training import draws_of
from torch import Tensor
from torch.func import functional_call

from mmlop import configured, shapes
from mmlop.backbone import Backbone, wrap
from mmlop.config import Params
from mmlop.data.pictures import augment
from mmlop.features import frozen_text
from mmlop.lora import LoraShape
from mmlop.prompts import Factors
from mmlop.shapes import Trainable
from mmlop.training import Epoch, Fit, Recipe, fit, fit_together
from mmlop.views import Shots

NAMES = ("red", "green", "blue")
TEMPLATE = "a photo of a {}."
LIST = ("a photo of a {}.", "a {}.")
DEEP = {"prompts": {"depth": 2}}  # the tiny CLIP has two blocks
METHODS = ("coop", "kgcoop", "vpt", "ivlp", "maple", "promptsrc", "mmlop", "clip_lora")
ADAPTED = dict.fromkeys(("vpt", "ivlp", "maple", "promptsrc", "mmlop"), DEEP)
# So that two epochs move far enough to be seen above rounding; the rest is as published.
FAST = {"epochs": 2, "batch_size": 12, "warmup_rate": 0.01}
TAU, WIDTH = 1 / 0.07, 16  # of the tiny CLIP
L1 = TAU / 100 * math.sqrt(WIDTH / 512)  # what lambda_t and lambda_v are multiplied by


@pytest.fixture(scope="module")
def exact() -> Backbone:
    backbone = wrap(tiny_clip(), "tiny", "random")
    backbone.model.double()
    return backbone


def params(method: str, **train: Any) -> Params:
    profile = {"architecture": "tiny", "methods": ADAPTED}
    values = {"datasets": ["toy"], "backbone": "tiny", "method": method, "profiles": {"tiny": profile}}
    return Params.model_validate(values | {"train": FAST | train})


def setting(backbone: Backbone, method: str, **train: Any) -> tuple[Trainable, Recipe]:
    found = params(method, **train)
    shape = configured.shape(found, backbone)
    assert shape is not None
    return shape, configured.recipe(found, backbone)


def shots_of(backbone: Backbone, method: str, seed: int = 0) -> Shots:
    """Four noisy pictures for each of three colours; others for every seed."""
    generator, pictures = torch.Generator().manual_seed(seed), []
    for label in (0, 1, 2) * 4:
        picture = torch.randint(0, 120, (3, 40, 36), generator=generator)
        picture[label] += 130
        pictures.append(picture.to(torch.uint8))
    anchors = frozen_text(backbone, NAMES, (TEMPLATE,) if method == "kgcoop" else LIST)
    return Shots(pictures, torch.tensor((0, 1, 2) * 4), NAMES, TEMPLATE, anchors)


def shown(shots: Shots, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The views and labels of an epoch of one batch, drawn as documented: from (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(draws_of(seed, epoch))
    order = torch.randperm(len(shots.labels), generator=generator).tolist()
    return torch.stack([augment(shots.pictures[i], 32, generator) for i in order]), shots.labels[order]


# What each method is, slowly


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def padded(backbone: Backbone, texts: list[str], n: int = 0) -> Tensor:
    return slow_clip.with_placeholders(backbone.tokenize(texts, n), n, backbone.context_length)


def text_behind(backbone: Backbone, prompts: list[Tensor]) -> Tensor:
    """w' of the names behind prompts [n, d_t] of each prompted block."""
    stacked = torch.stack(prompts)
    return unit(slow_clip.encode_text(backbone, padded(backbone, [f"{n}." for n in NAMES], stacked.shape[1]), stacked))


def text_of(backbone: Backbone, template: str) -> Tensor:
    texts = [template.replace("{}", name) for name in NAMES]
    return unit(backbone.model.encode_text(padded(backbone, texts)))  # type: ignore[operator]


def pictures_behind(backbone: Backbone, views: Tensor, prompts: list[Tensor]) -> Tensor:
    each = torch.stack(prompts).expand(len(views), -1, -1, -1)
    return unit(slow_clip.encode_image(backbone, backbone.normalise(views).double(), each))


def pictures_of(backbone: Backbone, views: Tensor) -> Tensor:
    return unit(backbone.model.encode_image(backbone.normalise(views).double()))  # type: ignore[operator]


Features = tuple[Tensor, Tensor]  # f' [B, d], w' [C, d]


def coop(backbone: Backbone, at: Factors, views: Tensor) -> Features:
    return pictures_of(backbone, views), text_behind(backbone, [at["P_text"][0]])


def vpt(backbone: Backbone, at: Factors, views: Tensor) -> Features:
    return pictures_behind(backbone, views, list(at["P_vision"])), text_of(backbone, TEMPLATE)


def independent(backbone: Backbone, at: Factors, views: Tensor) -> Features:
    return pictures_behind(backbone, views, list(at["P_vision"])), text_behind(backbone, list(at["P_text"]))


def maple(backbone: Backbone, at: Factors, views: Tensor) -> Features:
    text = list(at["P_text"])
    vision = [torch.stack([at["W"][block] @ token + at["b"][block] for token in text[block]]) for block in range(2)]
    return pictures_behind(backbone, views, vision), text_behind(backbone, text)


def mmlop(backbone: Backbone, at: Factors, views: Tensor) -> Features:
    vision, text = ([at["U"][block] @ at[down][block] for block in range(2)] for down in ("V_vision", "V_text"))
    image, classes = pictures_behind(backbone, views, vision), text_behind(backbone, text)
    anchors = unit(sum(text_of(backbone, template) for template in LIST))  # type: ignore[arg-type]
    return image, unit(classes - (classes - anchors).mean(dim=0))


def clip_lora(backbone: Backbone, at: Factors, views: Tensor) -> Features:
    weights = {}
    for side, where in (("vision", "visual.transformer"), ("text", "transformer")):
        for block in range(2):
            name = f"{where}.resblocks.{block}.attn.in_proj_weight"
            changes = [b @ a / math.sqrt(2) for a, b in zip(at[f"A_{side}"][block], at[f"B_{side}"][block], strict=True)]
            weights[name] = backbone.model.get_parameter(name) + torch.cat(changes)
    rows = padded(backbone, [TEMPLATE.replace("{}", name) for name in NAMES])
    found = functional_call(backbone.model, weights, (backbone.normalise(views).double(), rows))
    return unit(found[0]), unit(found[1])


SLOWLY: dict[str, Callable[[Backbone, Factors, Tensor], Features]] = {
    **{"coop": coop, "kgcoop": coop, "vpt": vpt, "ivlp": independent, "promptsrc": independent},
    **{"maple": maple, "mmlop": mmlop, "clip_lora": clip_lora},
}


def slow_terms(backbone: Backbone, method: str, at: Factors, views: Tensor, labels: Tensor) -> dict[str, Tensor]:
    image, text = SLOWLY[method](backbone, at, views)
    probabilities = (TAU * image @ text.T).softmax(dim=1)
    terms = {"ce": -probabilities[range(len(labels)), labels].log().mean()}
    if method == "kgcoop":
        template = text_of(backbone, TEMPLATE)
        cosines = [text[c] @ template[c] for c in range(len(NAMES))]
        terms["text"] = 8 * TAU / 100 * (1 - sum(cosines) / len(NAMES))
    if method in ("promptsrc", "mmlop"):
        frozen = pictures_of(backbone, views)
        anchors = unit(sum(text_of(backbone, template) for template in LIST))  # type: ignore[arg-type]
        terms["text"] = 25 * L1 * (text - anchors).abs().mean()
        terms["image"] = 10 * L1 * (image - frozen).abs().mean()
        before = (TAU * frozen @ anchors.T).softmax(dim=1)
        terms["kl"] = (before * (before.log() - probabilities.log())).sum() / before.numel()
    return terms


class Sgd:
    """Momentum 0.9 and weight decay 5e-4, as torch's."""

    def __init__(self) -> None:
        self.momentum: Factors = {}

    def step(self, name: str, value: Tensor, gradient: Tensor, rate: float) -> Tensor:
        gradient = gradient + 5e-4 * value
        self.momentum[name] = 0.9 * self.momentum[name] + gradient if name in self.momentum else gradient
        return value - rate * self.momentum[name]


class AdamW:
    """As Loshchilov and Hutter's: the decay of 0.01 apart from the gradient."""

    def __init__(self) -> None:
        self.moments: dict[str, tuple[int, Tensor, Tensor]] = {}

    def step(self, name: str, value: Tensor, gradient: Tensor, rate: float) -> Tensor:
        zero = torch.zeros_like(value)
        steps, first, second = self.moments.get(name, (0, zero, zero))
        steps, first, second = steps + 1, 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        self.moments[name] = steps, first, second
        direction = first / (1 - 0.9**steps) / ((second / (1 - 0.999**steps)).sqrt() + 1e-8)
        return value - rate * 0.01 * value - rate * direction


RATES = {  # of the two epochs: a warm-up at 0.01 and the top of the cosine; without a warm-up the top and the half
    **{"coop": (0.01, 0.002), "kgcoop": (0.01, 0.002), "vpt": (0.01, 0.0025), "ivlp": (0.01, 0.0025)},
    **{"promptsrc": (0.01, 0.0025), "maple": (0.01, 0.0035), "mmlop": (0.01, 0.0025), "clip_lora": (2e-4, 1e-4)},
}


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_equal_slow_arithmetic(exact: Backbone, method: str) -> None:
    """Every loss term of both, and where the factors end: the gradients, the optimiser and the averaging."""
    shots, (shape, recipe) = shots_of(exact, method), setting(exact, method)
    words = exact.word_embeddings("a photo of a ").float()
    start = shapes.initialise(shape, words, torch.Generator().manual_seed(7))
    at = {name: value.double() for name, value in start.items()}
    optimiser = AdamW() if method == "clip_lora" else Sgd()
    found, passed = fit(exact, shape, recipe, shots, seed=7), []
    for epoch, rate in enumerate(RATES[method]):
        leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
        terms = slow_terms(exact, method, leaves, *shown(shots, 7, epoch))
        loss = torch.stack(list(terms.values())).sum()
        for name, term in {**terms, "loss": loss}.items():
            assert found.history[epoch][name] == pytest.approx(term.item(), rel=1e-5, abs=1e-9), name
        assert set(found.history[epoch]) == {*terms, "loss", "accuracy", "learning_rate"}
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        at = {name: optimiser.step(name, at[name], gradient, rate) for name, gradient in zip(at, gradients, strict=True)}
        passed.append(at)
    if method == "promptsrc":  # epochs 1 and 2 are as far from 0.75 * 2
        at = {name: (passed[0][name] + passed[1][name]) / 2 for name in at}
    for name, value in at.items():
        moved = (value - start[name]).norm()
        assert moved > 1e-5, name
        assert (found.factors[name] - value).norm() < 2e-4 * moved + 6e-8 * value.norm(), name  # factors are kept in fp32


def test_kgcoop_is_held_by_its_own_template_and_by_nothing_else(exact: Backbone) -> None:
    shape, recipe = setting(exact, "kgcoop")
    weights = recipe.consistency
    assert (weights.distance, weights.image, weights.logits) == ("cosine", 0, 0)
    assert weights.text == pytest.approx(8 * TAU / 100, rel=1e-6)  # no square root: a cosine does not depend on d
    pulled = fit(exact, shape, replace(recipe, consistency=replace(weights, text=1e4)), shots_of(exact, "kgcoop"), seed=1)
    free = fit(exact, shape, replace(recipe, consistency=replace(weights, text=0)), shots_of(exact, "kgcoop"), seed=1)
    assert "text" in pulled.history[0]
    assert "text" not in free.history[0]


# Averaging over epochs


def test_what_is_returned_is_the_gaussian_average_of_every_epochs_factors(exact: Backbone, tmp_path: Path) -> None:
    """PromptSRC's: a normal density over epochs 1 .. E around 0.75 E, of a spread of 0.05 E, scaled to a sum of 1."""
    epochs = 6
    shape, recipe = setting(exact, "promptsrc", epochs=epochs, averaging={"mean": 0.7, "std": 0.3})
    passed: list[Factors] = []

    def keep(epoch: int, values: Epoch) -> None:
        (file,) = tmp_path.iterdir()
        passed.append({name: value[0] for name, value in load_file(file).items() if name in shape.factors})

    shots = shots_of(exact, "promptsrc")
    found = fit(exact, shape, recipe, shots, seed=3, checkpoints=tmp_path, on_epoch=keep)
    density = []
    for epoch in range(1, epochs + 1):
        density.append(np.exp(-0.5 * ((epoch - 0.7 * epochs) / (0.3 * epochs)) ** 2))
    for name in shape.factors:
        expected = np.zeros(shape.factors[name])
        for weight, factors in zip(density, passed, strict=True):
            expected += weight / sum(density) * factors[name].double().numpy()
        assert np.allclose(found.factors[name].numpy(), expected, rtol=1e-5, atol=1e-7), name
        assert not torch.equal(found.factors[name], passed[-1][name])
    plain = fit(exact, shape, replace(recipe, averaging=None), shots, seed=3)  # training itself goes the same way
    assert plain.history == found.history
    assert all(torch.equal(plain.factors[name], passed[-1][name]) for name in shape.factors)


@pytest.mark.parametrize(
    ("epochs", "mean", "std"), [(20, 0.75, 0.05), (1, 0.75, 0.05), (7, 1.0, 3.0), (10, 0.75, 1e-3), (5, 9.0, 1e-4)]
)
def test_shares_of_epochs_are_a_normal_density(epochs: int, mean: float, std: float) -> None:
    """However narrow it is."""
    recipe = Recipe(epochs=epochs, averaging=(mean, std))
    numbers = np.arange(1, epochs + 1)
    exponents = -0.5 * ((numbers - mean * epochs) / (std * epochs)) ** 2
    density = np.exp(exponents - exponents.max())
    shares = [recipe.share(epoch) for epoch in range(epochs)]
    assert shares == pytest.approx(list(density / density.sum()), rel=1e-9, abs=1e-300)
    assert sum(shares) == pytest.approx(1)


# The same bits, together and resumed


class Killed(Exception):
    pass


def same(one: Fit, other: Fit) -> bool:
    return one.history == other.history and all(torch.equal(one.factors[k], other.factors[k]) for k in one.factors)


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("method", ["promptsrc", "clip_lora", "maple", "vpt"])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(method: str, after: int, tmp_path: Path) -> None:
    """Averages, momentum and AdamW's moments and steps come back with the factors."""
    backbone = wrap(tiny_clip(), "tiny", "random")
    shape, recipe = setting(backbone, method, epochs=4, batch_size=4)
    shots = shots_of(backbone, method)
    uninterrupted = fit(backbone, shape, recipe, shots, seed=1)

    def stop(epoch: int, values: Epoch) -> None:
        if epoch + 1 == after:
            raise Killed

    with pytest.raises(Killed):
        fit(backbone, shape, recipe, shots, seed=1, checkpoints=tmp_path, on_epoch=stop)
    trained: list[int] = []
    again = fit(backbone, shape, recipe, shots, 1, checkpoints=tmp_path, on_epoch=lambda epoch, _: trained.append(epoch))
    assert trained == list(range(after, 4))
    assert same(again, uninterrupted)


def test_a_checkpoint_of_another_method_is_not_used(tmp_path: Path) -> None:
    backbone = wrap(tiny_clip(), "tiny", "random")
    for method in ("ivlp", "promptsrc", "maple"):
        shape, recipe = setting(backbone, method)
        fit(backbone, shape, recipe, shots_of(backbone, method), seed=1, checkpoints=tmp_path)
    shape, recipe = setting(backbone, "promptsrc")
    for other in (
        replace(recipe, averaging=None),
        replace(recipe, averaging=(0.5, 0.05)),
        replace(recipe, optimiser="adamw"),
    ):
        fit(backbone, shape, other, shots_of(backbone, "promptsrc"), seed=1, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("method", METHODS)
def test_seeds_together_are_as_each_alone(exact: Backbone, method: str) -> None:
    shape, recipe = setting(exact, method, batch_size=4)
    each = {seed: shots_of(exact, method, seed) for seed in (1, 2, 3)}
    together = fit_together(exact, shape, recipe, each)
    words = exact.word_embeddings("a photo of a ").float()
    for seed, shots in each.items():
        alone, start = (
            fit(exact, shape, recipe, shots, seed),
            shapes.initialise(shape, words, torch.Generator().manual_seed(seed)),
        )
        for name, value in alone.factors.items():
            off, moved = (together[seed].factors[name] - value).norm(), (start[name] - value).norm()
            assert off < 1e-3 * moved, (seed, name)  # and it did move
        for key, number in alone.history[-1].items():
            assert together[seed].history[-1][key] == pytest.approx(number, rel=1e-5, abs=1e-6), key


def test_a_bank_of_views_serves_methods_that_see_with_the_frozen_encoder() -> None:
    """CoOp looks at the bank's features alone; VPT at its views, and at no frozen feature."""
    backbone = wrap(tiny_clip(), "tiny", "random")
    for method in ("coop", "vpt", "clip_lora"):
        shape, recipe = setting(backbone, method, views=2)
        one, again = (fit(backbone, shape, recipe, shots_of(backbone, method), seed=1) for _ in range(2))
        assert same(one, again)
        assert not same(one, fit(backbone, shape, replace(recipe, views=3), shots_of(backbone, method), seed=1))


# How long


@pytest.mark.parametrize(
    ("pictures", "shots", "batch", "epochs"),
    [
        (800, 16, 32, 320),  # 50 classes: 25 steps an epoch, 8000 in all
        (50, 1, 32, 500),  # one step an epoch (the rest is dropped), 500 in all
        (6, 2, 32, 1000),  # fewer pictures than a batch: one step
        (100, 1, 32, 167),  # 3 steps: 501 rather than 498
    ],
)
def test_steps_per_shot_in_epochs(pictures: int, shots: int, batch: int, epochs: int) -> None:
    recipe = Recipe(epochs=0, steps_per_shot=500, batch_size=batch).lasting(pictures, shots)
    assert (recipe.epochs, recipe.steps_per_shot) == (epochs, None)
    size = min(batch, pictures)
    assert 500 * shots <= epochs * (pictures // size) < 500 * shots + pictures // size
    assert recipe.lasting(1, 99) == recipe  # a recipe in epochs lasts as long as it says


def test_clip_lora_trains_as_many_steps_as_its_shots_ask_for(exact: Backbone) -> None:
    train = {"epochs": None, "steps_per_shot": 3, "batch_size": 4}
    shape, recipe = setting(exact, "clip_lora", **train)
    assert isinstance(shape, LoraShape)
    assert (recipe.epochs, recipe.steps_per_shot, recipe.optimiser, recipe.weight_decay) == (0, 3, "adamw", 0.01)
    shots = shots_of(exact, "clip_lora")
    found = fit(exact, shape, recipe.lasting(len(shots.labels), 4), shots, seed=1)
    assert len(found.history) == 4  # of 3 steps each: 3 * 4 shots
