"""Training: the recipe, one step against slow arithmetic, the same bits again, and resuming."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slow_clip
import torch
from conftest import tiny_clip
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from mmlop.backbone import Backbone, fingerprint_of, load, wrap
from mmlop.data.mini.benchmark import TASKS, render
from mmlop.data.pictures import augment
from mmlop.errors import MmlopError
from mmlop.features import frozen_text, image_features
from mmlop.losses import Consistency
from mmlop.prompts import PromptShape, initialise
from mmlop.training import Epoch, Fit, Recipe, fit, fit_together
from mmlop.views import Shots, Views

SHAPE = PromptShape(2, 2, 1, 32, 32)
NAMES = ("red", "green", "blue")
RECIPE = Recipe(epochs=4, learning_rate=0.05, consistency=Consistency(2.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture(scope="module")
def shots(backbone: Backbone) -> Shots:
    """Four noisy pictures for each of three colours."""
    generator = torch.Generator().manual_seed(0)
    pictures, labels = [], []
    for label in range(3):
        for _ in range(4):
            picture = torch.randint(0, 120, (3, 40, 36), generator=generator)
            picture[label] += 130
            pictures.append(picture.to(torch.uint8))
            labels.append(label)
    anchors = frozen_text(backbone, NAMES, ("a photo of a {}.", "a {}."))
    return Shots(pictures, torch.tensor(labels), NAMES, "a photo of a {}.", anchors)


def same(one: Fit, other: Fit) -> bool:
    return one.history == other.history and all(torch.equal(one.factors[k], other.factors[k]) for k in one.factors)


# The recipe


class DasslWarmup:
    """Dassl's ConstantWarmupScheduler around torch's own cosine, as written there."""

    def __init__(self, rate: float, epochs: int, warmup_epochs: int, warmup_rate: float) -> None:
        self.optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
        self.successor = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, float(epochs))
        self.warmup_epochs, self.warmup_rate, self.last_epoch = warmup_epochs, warmup_rate, 0
        self._set()

    def _set(self) -> None:
        warm = self.last_epoch < self.warmup_epochs
        self.rate = self.warmup_rate if warm else self.successor.get_last_lr()[0]

    def step(self) -> None:
        if self.last_epoch >= self.warmup_epochs:
            self.optimiser.step()
            self.successor.step()
            self.rate = self.successor.get_last_lr()[0]
        else:
            self.last_epoch += 1
            self._set()


@pytest.mark.parametrize(("epochs", "warmup"), [(30, 1), (50, 1), (5, 2), (3, 0), (1, 1), (2, 5)])
def test_the_rate_is_dassls(epochs: int, warmup: int) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=0.0025, warmup_epochs=warmup, warmup_rate=1e-5)
    dassl = DasslWarmup(0.0025, epochs, warmup, 1e-5)
    for epoch in range(epochs):
        assert recipe.rate(epoch) == pytest.approx(dassl.rate, rel=1e-9), epoch
        dassl.step()


def test_the_papers_rates() -> None:
    recipe = Recipe()
    assert (recipe.rate(0), recipe.rate(1)) == (1e-5, 0.0025)
    assert recipe.rate(16) == pytest.approx(0.00125)  # half-way down the cosine
    assert 0 < recipe.rate(29) < 1e-4


# One step, slowly


def slow_step(
    backbone: Backbone, shots: Shots, recipe: Recipe, factors: dict[str, Tensor], views: Tensor, labels: Tensor
) -> Any:
    """Loss and gradients with every row of every block, and the losses as they are written in the docs."""
    leaves = {name: value.clone().requires_grad_() for name, value in factors.items()}
    n, tau = SHAPE.tokens, backbone.logit_scale
    vision = torch.stack([leaves["U"][layer] @ leaves["V_vision"][layer] for layer in range(SHAPE.depth)])
    text = torch.stack([leaves["U"][layer] @ leaves["V_text"][layer] for layer in range(SHAPE.depth)])
    pictures = backbone.normalise(views).double()
    rows = slow_clip.with_placeholders(backbone.tokenize([f"{name}." for name in NAMES]), n, backbone.context_length)

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    f = unit(backbone.model.visual(pictures))  # type: ignore[operator]
    f_prompted = unit(slow_clip.encode_image(backbone, pictures, vision.expand(len(views), -1, -1, -1)))
    w, w_prompted = shots.anchors.double(), unit(slow_clip.encode_text(backbone, rows, text))
    if recipe.drift_correction:
        w_prompted = unit(w_prompted - (w_prompted - w).mean(dim=0))
    ours, frozen = tau * f_prompted @ w_prompted.T, tau * f @ w.T
    p, q = frozen.softmax(dim=1), ours.softmax(dim=1)
    loss = -torch.log(q[range(len(labels)), labels]).mean()
    loss = loss + recipe.consistency.text * (w_prompted - w).abs().mean()
    loss = loss + recipe.consistency.image * (f_prompted - f).abs().mean()
    loss = loss + recipe.consistency.logits * (p * (p.log() - q.log())).sum() / p.numel()
    return loss, torch.autograd.grad(loss, list(leaves.values()))


@pytest.mark.parametrize("drift_correction", [True, False])
def test_steps_equal_slow_arithmetic(shots: Shots, drift_correction: bool) -> None:
    """Two epochs of one step each: SGD with momentum and weight decay by hand, in float64."""
    exact = wrap(tiny_clip(), "tiny", "random")
    exact.model.double()
    anchors = frozen_text(exact, NAMES, ("a photo of a {}.", "a {}."))
    shots = replace(shots, anchors=anchors)
    recipe = replace(RECIPE, epochs=2, batch_size=12, warmup_rate=0.01, drift_correction=drift_correction)
    seen: list[tuple[Tensor, Tensor]] = []

    def expected() -> tuple[dict[str, Tensor], list[float]]:
        words = exact.word_embeddings("a photo of a ").float()
        factors = {k: v.double() for k, v in initialise(SHAPE, words, torch.Generator().manual_seed(7)).items()}
        momentum = {name: torch.zeros_like(value) for name, value in factors.items()}
        losses = []
        for epoch, (views, labels) in enumerate(seen):
            loss, gradients = slow_step(exact, shots, recipe, factors, views, labels)
            losses.append(loss.item())
            for name, gradient in zip(factors, gradients, strict=True):
                momentum[name] = 0.9 * momentum[name] + gradient + 5e-4 * factors[name]
                factors[name] = factors[name] - recipe.rate(epoch) * momentum[name]
        return factors, losses

    for epoch in range(2):  # the pictures an epoch shows, drawn as documented: from (seed, epoch) alone
        generator = torch.Generator().manual_seed(draws_of(7, epoch))
        order = torch.randperm(12, generator=generator).tolist()
        views = torch.stack([augment(shots.pictures[i], 32, generator) for i in order])
        seen.append((views, shots.labels[order]))
    factors, losses = expected()
    found = fit(exact, SHAPE, recipe, shots, seed=7)
    for epoch, loss in zip(found.history, losses, strict=True):
        assert epoch["loss"] == pytest.approx(loss, rel=1e-5)
    start = initialise(SHAPE, exact.word_embeddings("a photo of a ").float(), torch.Generator().manual_seed(7))
    for name, value in factors.items():
        moved = (value - start[name]).norm()
        assert moved > 1e-4
        assert (found.factors[name] - value).norm() < 2e-4 * moved, name


def draws_of(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big") // 2


# Learning, and leaving the rest alone


def test_the_loss_falls_on_an_easy_task_and_the_backbone_stays(backbone: Backbone, shots: Shots) -> None:
    before = fingerprint_of(backbone.model)
    recipe = replace(RECIPE, epochs=8, consistency=Consistency(0, 0, 0))
    result = fit(backbone, SHAPE, recipe, shots, seed=1)
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < 0.9 * first["loss"]
    assert first["accuracy"] < 50 < 90 < last["accuracy"]
    assert fingerprint_of(backbone.model) == before
    assert all(not weight.requires_grad and weight.grad is None for weight in backbone.model.parameters())


def test_history_holds_every_term(backbone: Backbone, shots: Shots) -> None:
    seen: list[tuple[int, Epoch]] = []
    result = fit(backbone, SHAPE, RECIPE, shots, seed=1, on_epoch=lambda epoch, values: seen.append((epoch, values)))
    assert seen == list(enumerate(result.history))
    for number, epoch in enumerate(result.history):
        assert set(epoch) == {"loss", "ce", "text", "image", "kl", "accuracy", "learning_rate"}
        assert epoch["loss"] == pytest.approx(epoch["ce"] + epoch["text"] + epoch["image"] + epoch["kl"], rel=1e-5)
        assert epoch["learning_rate"] == RECIPE.rate(number)
        assert 0 <= epoch["accuracy"] <= 100
    assert {name: tuple(value.shape) for name, value in result.factors.items()} == SHAPE.factors
    assert not any(value.requires_grad for value in result.factors.values())


@pytest.mark.parametrize(("batch_size", "steps"), [(5, 2), (12, 1), (100, 1), (1, 12)])
def test_an_incomplete_last_batch_is_dropped(backbone: Backbone, shots: Shots, batch_size: int, steps: int) -> None:
    result = fit(backbone, SHAPE, replace(RECIPE, epochs=1, batch_size=batch_size), shots, seed=1)
    pictures = steps * min(batch_size, 12)
    hits = result.history[0]["accuracy"] * pictures / 100
    assert hits == pytest.approx(round(hits), abs=1e-6)


# The same bits


def test_the_seed_decides_the_bits(backbone: Backbone, shots: Shots) -> None:
    one = fit(backbone, SHAPE, RECIPE, shots, seed=1)
    torch.randn(3)  # the global generator plays no part
    assert same(one, fit(backbone, SHAPE, RECIPE, shots, seed=1, name="other"))
    other = fit(backbone, SHAPE, RECIPE, shots, seed=2)
    assert not any(torch.equal(one.factors[name], other.factors[name]) for name in one.factors)


class Killed(Exception):
    pass


def interrupt(backbone: Backbone, shots: Shots, folder: Path, after: int = 2, **other: Any) -> None:
    def stop(epoch: int, values: Epoch) -> None:
        if epoch + 1 == after:
            raise Killed

    with pytest.raises(Killed):
        fit(backbone, SHAPE, RECIPE, shots, **{"seed": 1, "checkpoints": folder, "on_epoch": stop} | other)


def epochs_trained(
    backbone: Backbone, shots: Shots, folder: Path, recipe: Recipe = RECIPE, seed: int = 1
) -> tuple[list[int], Fit]:
    trained: list[int] = []
    result = fit(backbone, SHAPE, recipe, shots, seed, checkpoints=folder, on_epoch=lambda epoch, _: trained.append(epoch))
    return trained, result


@pytest.fixture(scope="module")
def uninterrupted(backbone: Backbone, shots: Shots) -> Fit:
    return fit(backbone, SHAPE, RECIPE, shots, seed=1)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(
    backbone: Backbone, shots: Shots, uninterrupted: Fit, tmp_path: Path, after: int
) -> None:
    interrupt(backbone, shots, tmp_path, after)
    trained, result = epochs_trained(backbone, shots, tmp_path)
    assert trained == list(range(after, 4))
    assert same(result, uninterrupted)


def test_interrupted_twice(backbone: Backbone, shots: Shots, uninterrupted: Fit, tmp_path: Path) -> None:
    interrupt(backbone, shots, tmp_path, 1)
    interrupt(backbone, shots, tmp_path, 3)
    trained, result = epochs_trained(backbone, shots, tmp_path)
    assert trained == [3]
    assert same(result, uninterrupted)


def test_a_finished_run_is_not_trained_again(backbone: Backbone, shots: Shots, uninterrupted: Fit, tmp_path: Path) -> None:
    epochs_trained(backbone, shots, tmp_path)
    trained, result = epochs_trained(backbone, shots, tmp_path)
    assert trained == []
    assert same(result, uninterrupted)
    assert len(list(tmp_path.iterdir())) == 1


def garbage(file: Path) -> None:
    file.write_bytes(b"garbage")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def nothing(file: Path) -> None:
    file.write_bytes(b"")


def no_history(file: Path) -> None:
    save_file(load_file(file), file)


def other_metadata(file: Path) -> None:
    save_file(load_file(file), file, metadata={"history": "{"})


def no_momentum(file: Path) -> None:
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("momentum_buffer.")}, file, metadata=metadata)


@pytest.mark.parametrize("spoil", [garbage, truncate, nothing, no_history, other_metadata, no_momentum])
def test_a_spoilt_checkpoint_starts_again_with_a_warning(
    backbone: Backbone, shots: Shots, uninterrupted: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    interrupt(backbone, shots, tmp_path)
    (file,) = tmp_path.iterdir()
    spoil(file)
    with caplog.at_level(logging.WARNING, logger="mmlop"):
        trained, result = epochs_trained(backbone, shots, tmp_path)
    assert trained == [0, 1, 2, 3]
    assert same(result, uninterrupted)
    assert f"checkpoint {file} cannot be read" in caplog.text


def test_a_checkpoint_of_anything_else_is_not_used(backbone: Backbone, shots: Shots, tmp_path: Path) -> None:
    interrupt(backbone, shots, tmp_path)
    changed = [picture.clone() for picture in shots.pictures]
    changed[5][0, 0, 0] ^= 1
    every = [0, 1, 2, 3]
    assert epochs_trained(backbone, replace(shots, pictures=changed), tmp_path)[0] == every
    assert epochs_trained(backbone, replace(shots, labels=shots.labels.roll(1)), tmp_path)[0] == every
    assert epochs_trained(backbone, replace(shots, classes=("red", "green", "teal")), tmp_path)[0] == every
    assert epochs_trained(backbone, replace(shots, template="an image of a {}."), tmp_path)[0] == every
    assert epochs_trained(backbone, replace(shots, anchors=shots.anchors.roll(1, 0)), tmp_path)[0] == every
    assert epochs_trained(backbone, shots, tmp_path, replace(RECIPE, momentum=0.8))[0] == every
    assert epochs_trained(backbone, shots, tmp_path, replace(RECIPE, consistency=Consistency(2, 1, 2)))[0] == every
    assert epochs_trained(backbone, shots, tmp_path, seed=2)[0] == every
    assert epochs_trained(wrap(tiny_clip(1), "tiny", "random"), shots, tmp_path)[0] == every
    assert epochs_trained(backbone, shots, tmp_path)[0] == [2, 3]  # the first one is still there


# A bank of views


def test_a_bank_shows_the_same_views_with_the_same_features_in_every_epoch(backbone: Backbone, shots: Shots) -> None:
    views = Views(backbone, replace(RECIPE, views=3), shots, seed=1)
    seen: dict[bytes, Tensor] = {}
    for epoch in range(12):
        for batch, frozen, labels in views.batches(epoch):
            assert len(batch) == len(frozen) == len(labels) == 4
            for view, feature in zip(batch, frozen, strict=True):
                assert torch.equal(seen.setdefault(view.numpy().tobytes(), feature), feature)
    assert 30 < len(seen) <= 36  # three of each of twelve pictures, nearly all of them shown by now
    every = torch.stack([torch.frombuffer(bytearray(one), dtype=torch.uint8).view(3, 32, 32) for one in seen])
    assert torch.allclose(torch.stack(list(seen.values())), image_features(backbone, every), atol=1e-6)
    fresh = Views(backbone, RECIPE, shots, seed=1)
    assert (
        len({view.numpy().tobytes() for epoch in range(12) for batch, _, _ in fresh.batches(epoch) for view in batch}) > 100
    )


def test_training_from_a_bank_learns_and_repeats(backbone: Backbone, shots: Shots) -> None:
    recipe = replace(RECIPE, epochs=8, consistency=Consistency(0, 0, 0), views=2)
    one = fit(backbone, SHAPE, recipe, shots, seed=1)
    assert one.history[-1]["loss"] < 0.9 * one.history[0]["loss"]
    assert same(one, fit(backbone, SHAPE, recipe, shots, seed=1))
    assert not same(one, fit(backbone, SHAPE, replace(recipe, views=3), shots, seed=1))


# Several seeds in the same passes


def apart(shots: Shots, seed: int) -> Shots:
    """As many pictures, others for every seed."""
    generator = torch.Generator().manual_seed(seed)
    size = tuple(shots.pictures[0].shape)
    noise = [torch.randint(0, 60, size, generator=generator).to(torch.uint8) for _ in shots.pictures]
    return replace(shots, pictures=[picture // 2 + more for picture, more in zip(shots.pictures, noise, strict=True)])


def mini_shots() -> tuple[Backbone, Shots]:
    """Twelve classes of the mini benchmark, 16 pictures each."""
    mini, (task, *_) = load("mini"), TASKS.values()
    classes = task.classes[:12]
    pictures = [
        (pil_to_tensor(image), label)
        for part, label, image in render(task, 0, {"train": 16})
        if label < len(classes) and part == "train"
    ]
    anchors = frozen_text(mini, classes, ("a photo of a {}.", "a drawing of a {}."))
    labels = torch.tensor([label for _, label in pictures])
    return mini, Shots([picture for picture, _ in pictures], labels, classes, task.template, anchors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_seed_gets_the_factors_of_training_it_alone(dtype: torch.dtype) -> None:
    """At the full rate in float64; in float32 with a rate at which rounding is not blown up step by step."""
    mini, shots = mini_shots()
    mini.model.to(dtype)
    shots = replace(shots, anchors=shots.anchors.to(dtype))
    shape = PromptShape(3, 2, 1, mini.vision_width, mini.text_width)
    rate = 0.0025 if dtype == torch.float64 else 0.0005
    recipe = Recipe(epochs=1, warmup_epochs=0, learning_rate=rate, crop=0.5, flip=False)
    each = {seed: apart(shots, seed) for seed in (1, 2, 3)}
    together = fit_together(mini, shape, recipe, each)
    for seed, one in each.items():
        alone = fit(mini, shape, recipe, one, seed)
        start = initialise(shape, mini.word_embeddings("a drawing of a "), torch.Generator().manual_seed(seed))
        for name, value in alone.factors.items():
            off, moved = (together[seed].factors[name] - value).norm(), (start[name] - value).norm()
            assert off < 1e-4 * value.norm(), (seed, name)
            assert off < 0.02 * moved, (seed, name)  # and it did move
        for key, value in alone.history[0].items():
            assert together[seed].history[0][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


def test_together_twice_and_resumed_gives_the_same_bits(backbone: Backbone, shots: Shots, tmp_path: Path) -> None:
    each = {seed: apart(shots, seed) for seed in (4, 2)}
    first = fit_together(backbone, SHAPE, RECIPE, each)

    def stop(epoch: int, found: dict[int, Epoch]) -> None:
        assert list(found) == [4, 2]
        if epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        fit_together(backbone, SHAPE, RECIPE, each, checkpoints=tmp_path, on_epoch=stop)
    trained: list[int] = []
    again = fit_together(
        backbone, SHAPE, RECIPE, each, checkpoints=tmp_path, on_epoch=lambda epoch, _: trained.append(epoch)
    )
    assert trained == [2, 3]
    assert all(same(first[seed], again[seed]) for seed in each)
    swapped = fit_together(backbone, SHAPE, RECIPE, {seed: each[seed] for seed in (2, 4)})
    for seed in each:
        for name, value in first[seed].factors.items():
            assert (swapped[seed].factors[name] - value).norm() < 1e-4 * value.norm()


def test_unequal_shots_cannot_go_together(backbone: Backbone, shots: Shots) -> None:
    fewer = replace(shots, pictures=shots.pictures[:-1], labels=shots.labels[:-1])
    with pytest.raises(ValueError, match="as many pictures, of the same classes"):
        fit_together(backbone, SHAPE, RECIPE, {1: shots, 2: fewer})


# Divergence


def test_divergence_names_the_run_the_seed_the_epoch_and_the_step(backbone: Backbone, shots: Shots, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=1e38)
    with pytest.raises(MmlopError) as error:
        fit(backbone, SHAPE, recipe, shots, seed=5, name="pets", checkpoints=tmp_path)
    assert "Training of pets with seed 5 diverged in epoch 2, step 2 (loss nan)" in str(error.value)
    assert "lower train.learning_rate" in str(error.value)


def test_divergence_in_the_very_last_step_is_noticed(backbone: Backbone, shots: Shots, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, warmup_epochs=0, batch_size=12, learning_rate=math.inf)
    with pytest.raises(MmlopError, match="pets with seed 5 diverged in epoch 1, step 1"):
        fit(backbone, SHAPE, recipe, shots, seed=5, name="pets", checkpoints=tmp_path)
    assert not list(tmp_path.iterdir())  # and no checkpoint of it is left
