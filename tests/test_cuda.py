"""On a GPU: the same numbers as on the CPU, the same bits twice, and no step that waits for the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from make_adapter import make_adapter

from mmlop import training
from mmlop.backbone import Backbone, load, wrap
from mmlop.classifier import Classifier
from mmlop.encode import Packing, encode_image, encode_text
from mmlop.features import frozen_text, prompted_tokens
from mmlop.lora import LoraShape
from mmlop.losses import Consistency, unit
from mmlop.prompts import PromptShape, initialise
from mmlop.recorded import Recorded
from mmlop.shapes import Trainable
from mmlop.training import Epoch, Fit, Recipe, fit, fit_together
from mmlop.views import Shots, Views

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")

NAMES = ("red", "green", "blue")
SHAPE = PromptShape(2, 2, 1, 32, 32)
RECIPE = Recipe(epochs=2, warmup_epochs=0, learning_rate=0.01, consistency=Consistency(2.0, 1.0, 1.0))
PLAIN = replace(RECIPE, consistency=Consistency(0, 0, 0), drift_correction=False)


@pytest.fixture(scope="module")
def gpu() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random", device="cuda")


@pytest.fixture(scope="module")
def cpu() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


def shots_for(backbone: Backbone, seed: int = 0) -> Shots:
    generator = torch.Generator().manual_seed(seed)
    pictures = [torch.randint(0, 256, (3, 40, 36), generator=generator).to(torch.uint8) for _ in range(24)]
    labels = torch.arange(24) % 3
    return Shots(pictures, labels, NAMES, "a photo of a {}.", frozen_text(backbone, NAMES, ("a photo of a {}.", "a {}.")))


def apart(one: Fit, other: Fit) -> float:
    """How far two trainings ended from each other, norm-wise, at the most."""
    return max(((one.factors[k] - v).norm() / v.norm()).item() for k, v in other.factors.items())


def test_features_are_those_of_the_cpu(gpu: Backbone, cpu: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(5, 3, 32, 32, generator=generator)
    prompts = torch.randn(2, 3, 32, generator=generator)
    for encode, here in ((encode_image, pictures), (encode_text, cpu.tokenize([f"{name}." for name in NAMES], 3))):
        expected = unit(encode(cpu, here, prompts))
        found = unit(encode(gpu, here.cuda(), prompts.cuda())).cpu()
        assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_near(cpu: Backbone, precision: str) -> None:
    low = wrap(tiny_clip(), "tiny", "random", precision, "cuda")
    pictures = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = unit(encode_image(low, pictures.cuda())).cpu()
    assert 0 < (found - unit(encode_image(cpu, pictures))).norm(dim=-1).max() < 0.03


def test_training_ends_where_the_cpu_ends_and_twice_at_the_same_bits(gpu: Backbone, cpu: Backbone) -> None:
    first, again = (fit(gpu, SHAPE, RECIPE, shots_for(gpu), seed=1) for _ in range(2))
    assert all(torch.equal(first.factors[name], again.factors[name]) for name in first.factors)
    assert first.history == again.history
    assert apart(first, fit(cpu, SHAPE, RECIPE, shots_for(cpu), seed=1)) < 1e-3


METHODS: dict[str, tuple[Trainable, Recipe]] = {
    "coop": (PromptShape(1, 4, None, 32, 32, "full", "text"), PLAIN),
    "kgcoop": (PromptShape(1, 4, None, 32, 32, "full", "text"), replace(PLAIN, consistency=Consistency(1, 0, 0, "cosine"))),
    "vpt": (PromptShape(2, 4, None, 32, 32, "full", "vision"), PLAIN),
    "maple": (PromptShape(2, 2, None, 32, 32, "coupled"), PLAIN),
    "promptsrc": (PromptShape(2, 4, None, 32, 32, "full"), replace(RECIPE, averaging=(0.75, 0.5))),
    "clip_lora": (LoraShape(2, 2, 2, 32, 32), replace(PLAIN, optimiser="adamw", weight_decay=0.01, learning_rate=2e-4)),
}


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_where_the_cpu_ends_and_resumes_to_the_same_bits(
    gpu: Backbone, cpu: Backbone, method: str, views: int, tmp_path: Path
) -> None:
    shape, recipe = METHODS[method]
    recipe = replace(recipe, views=views)
    first = fit(gpu, shape, recipe, shots_for(gpu), seed=1)
    assert apart(first, fit(cpu, shape, recipe, shots_for(cpu), seed=1)) < 1e-3

    class Killed(Exception):
        pass

    def stop(epoch: int, values: Epoch) -> None:
        raise Killed

    with pytest.raises(Killed):
        fit(gpu, shape, recipe, shots_for(gpu), seed=1, checkpoints=tmp_path, on_epoch=stop)
    again = fit(gpu, shape, recipe, shots_for(gpu), seed=1, checkpoints=tmp_path)
    assert first.history == again.history
    assert all(torch.equal(first.factors[name], again.factors[name]) for name in first.factors)


@pytest.mark.parametrize("method", METHODS)
def test_seeds_of_every_method_together_end_where_each_ends_alone(gpu: Backbone, method: str) -> None:
    shape, recipe = METHODS[method]
    each = {seed: shots_for(gpu, seed) for seed in (1, 2)}
    together = fit_together(gpu, shape, recipe, each)
    for seed, shots in each.items():
        assert apart(together[seed], fit(gpu, shape, recipe, shots, seed)) < 1e-3


@pytest.mark.parametrize("views", [0, 2])
def test_seeds_together_end_where_each_ends_alone(gpu: Backbone, views: int) -> None:
    recipe = replace(RECIPE, views=views)
    each = {seed: shots_for(gpu, seed) for seed in (1, 2, 3)}
    together = fit_together(gpu, SHAPE, recipe, each)
    for seed, shots in each.items():
        assert apart(together[seed], fit(gpu, SHAPE, recipe, shots, seed)) < 1e-3


def test_compiled_training_ends_there_too(gpu: Backbone) -> None:
    shots = shots_for(gpu)
    plain = fit(gpu, SHAPE, RECIPE, shots, seed=1)
    assert apart(fit(gpu, SHAPE, replace(RECIPE, compile=True), shots, seed=1), plain) < 1e-3


def test_no_step_waits_for_the_gpu(gpu: Backbone) -> None:
    """torch raises as soon as something between the arrival of a batch and the optimiser's step asks for a value."""
    shots = shots_for(gpu)
    texts = Packing(prompted_tokens(gpu, NAMES, SHAPE.tokens), SHAPE.tokens)
    start = initialise(SHAPE, None, torch.Generator().manual_seed(0))
    factors = {key: value[None].cuda().requires_grad_() for key, value in start.items()}
    optimiser = torch.optim.SGD(list(factors.values()), lr=0.01, momentum=0.9)
    batches = [tuple(part[None] for part in batch) for batch in Views(gpu, RECIPE, shots, 1).batches(0)]
    recorded = training._step(gpu, SHAPE, RECIPE, texts, shots.anchors, factors)
    assert isinstance(recorded, Recorded)
    for batch in batches[:2]:  # the first one sets up libraries, the second is recorded
        recorded(*batch)
        optimiser.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[2:]:
            recorded(*batch)  # replayed
            recorded._step(*batch)  # and launched kernel by kernel
            optimiser.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_classifier_says_the_same_on_both(gpu: Backbone, cpu: Backbone) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (50, 40, 3), dtype=np.uint8) for i in range(8)]
    here, there = (Classifier(make_adapter(cpu), one).predict(pictures) for one in (cpu, gpu))
    for one, other in zip(here, there, strict=True):
        assert one.label == other.label
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_the_shipped_clip_runs_on_a_gpu() -> None:
    mini = load("mini", device="cuda")
    found = frozen_text(mini, ("red star", "blue circle"), ("a photo of a {}.",)).cpu()
    assert torch.allclose(found, frozen_text(load("mini"), ("red star", "blue circle"), ("a photo of a {}.",)), atol=1e-4)
