"""The training loop: factors learned from a few pictures per class, resumable after any epoch to the same bits."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmlop import cache, mode
from mmlop.backbone import Backbone
from mmlop.encode import Packing
from mmlop.errors import MmlopError
from mmlop.files import replacing
from mmlop.losses import Consistency, loss_terms
from mmlop.prompts import Factors
from mmlop.recorded import Recorded, Step
from mmlop.shapes import Trainable, initialise, texts_of, tuned
from mmlop.views import Shots, Views

logger = logging.getLogger(__name__)

CODE = (
    *(
        "backbone.py",
        "encode.py",
        "features.py",
        "lora.py",
        "losses.py",
        "prompts.py",
        "shapes.py",
        "training.py",
        "views.py",
    ),
    "data/pictures.py",
)

Epoch = dict[str, float]  # mean of each loss term, training accuracy in percent, learning rate


@dataclass(frozen=True)
class Recipe:
    """How factors are trained. The defaults are MMLoP's, or PromptSRC's where its paper is silent."""

    epochs: int = 30
    steps_per_shot: int | None = None  # in place of epochs
    batch_size: int = 4
    learning_rate: float = 0.0025
    optimiser: str = "sgd"  # or adamw, which has no use for the momentum
    warmup_epochs: int = 1
    warmup_rate: float = 1e-5  # constant during warm-up
    momentum: float = 0.9
    weight_decay: float = 5e-4
    averaging: tuple[float, float] | None = None  # mean and spread of a Gaussian over epochs, in shares of their number
    crop: float = 0.08  # least share of the picture's area in a training view
    flip: bool = True  # mirror half of the views
    views: int = 0  # of every picture, drawn once and their frozen features kept; 0: fresh ones in every epoch
    consistency: Consistency = field(default_factory=Consistency)
    drift_correction: bool = True
    compile: bool = False  # torch.compile the forward pass: minutes at first, faster steps after

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch (from 0): constant warm-up, then a cosine over ``epochs`` that starts at its top, as
        Dassl's scheduler."""
        if epoch < self.warmup_epochs:
            return self.warmup_rate
        return self.learning_rate * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / self.epochs)) / 2

    def share(self, epoch: int) -> float:
        """What the factors after an epoch (from 0) count for in their average, as PromptSRC's Gaussian averaging: a normal
        density over epochs 1 .. E, scaled to a sum of 1."""
        mean, spread = (self.epochs * value for value in self.averaging or (1.0, 1.0))
        exponents = [-((number - mean) ** 2) / (2 * spread**2) for number in range(1, self.epochs + 1)]
        weights = [math.exp(exponent - max(exponents)) for exponent in exponents]  # the largest is 1: they never all vanish
        return weights[epoch] / sum(weights)

    def lasting(self, pictures: int, shots: int) -> Recipe:
        """The same recipe with its length in epochs, for so many pictures of so many shots per class."""
        if self.steps_per_shot is None:
            return self
        steps = max(1, pictures // min(self.batch_size, pictures))  # of an epoch
        return replace(self, epochs=math.ceil(self.steps_per_shot * shots / steps), steps_per_shot=None)


@dataclass(frozen=True)
class Fit:
    factors: Factors
    history: list[Epoch]


def fit(
    backbone: Backbone,
    shape: Trainable,
    recipe: Recipe,
    shots: Shots,
    seed: int,
    name: str = "prompts",
    checkpoints: Path | None = None,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> Fit:
    """Train the factors of ``shape`` on ``shots``: `fit_together` with one seed."""
    each = (lambda epoch, found: on_epoch(epoch, found[seed])) if on_epoch else None
    return fit_together(backbone, shape, recipe, {seed: shots}, name, checkpoints, each)[seed]


def fit_together(
    backbone: Backbone,
    shape: Trainable,
    recipe: Recipe,
    shots: Mapping[int, Shots],
    name: str = "prompts",
    checkpoints: Path | None = None,
    on_epoch: Callable[[int, dict[int, Epoch]], None] | None = None,
) -> dict[int, Fit]:
    """Train the factors of several seeds in the same forward and backward passes, each on its own ``shots`` (as many for
    each, of the same classes).

    The factors of one seed meet those of another nowhere, so this is the arithmetic of training them one by one, but for
    rounding. The same seeds, data, backbone, thread count and library versions give the same bits, with or without an
    interruption: after every epoch a checkpoint is left in ``checkpoints``, under a name made of everything that matters.

    Raises MmlopError, naming ``name``, seed and step, once an epoch had a loss that is not finite.
    """
    seeds, first = list(shots), next(iter(shots.values()))
    if any(len(one.labels) != len(first.labels) or one.classes != first.classes for one in shots.values()):
        raise ValueError("seeds trained together need as many pictures, of the same classes")
    texts = texts_of(backbone, shape, first.classes, first.template)
    words = backbone.word_embeddings(first.template.split("{}")[0])
    starts = [initialise(shape, words, torch.Generator().manual_seed(seed)) for seed in seeds]
    factors = {key: torch.stack([start[key] for start in starts]).to(backbone.device).requires_grad_() for key in starts[0]}
    optimiser = _optimiser(recipe, factors)
    averages = {key: torch.zeros_like(value) for key, value in factors.items()} if recipe.averaging else {}
    sees = tuned(shape, factors).sees
    frozen = not sees or bool(recipe.consistency.image or recipe.consistency.logits)
    views = {seed: Views(backbone, recipe, one, seed, frozen) for seed, one in shots.items()}
    checkpoint = checkpoints / f"{_key(backbone, shape, recipe, shots)}.safetensors" if checkpoints else None
    history = _resume(checkpoint, factors, averages, optimiser) if checkpoint else []
    step = _step(backbone, shape, recipe, texts, first.anchors, factors)
    for epoch in range(len(history), recipe.epochs):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(epoch)
        history.append(_epoch(recipe, views, step, factors, optimiser, epoch, name))
        for key, average in averages.items():
            average.add_(factors[key].detach(), alpha=recipe.share(epoch))
        if checkpoint:
            _save(checkpoint, factors, averages, optimiser, history)
        if on_epoch:
            on_epoch(epoch, dict(zip(seeds, history[-1], strict=True)))
    trained = {key: value.detach().cpu() for key, value in (averages or factors).items()}
    return {
        seed: Fit({key: value[index].clone() for key, value in trained.items()}, [epoch[index] for epoch in history])
        for index, seed in enumerate(seeds)
    }


def _optimiser(recipe: Recipe, factors: Factors) -> torch.optim.Optimizer:
    learned, first_rate = list(factors.values()), recipe.rate(0)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(learned, lr=first_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(learned, lr=first_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _epoch(
    recipe: Recipe,
    views: Mapping[int, Views],
    step: Step,
    factors: Factors,
    optimiser: torch.optim.Optimizer,
    epoch: int,
    name: str,
) -> list[Epoch]:
    """One pass over the shots of S seeds. Nothing in a step waits for the device."""
    steps: list[dict[str, Tensor]] = []  # [S] each
    for batch in zip(*(one.batches(epoch) for one in views.values()), strict=True):
        steps.append(step(*(torch.stack(parts) for parts in zip(*batch, strict=True))))
        optimiser.step()
    found = {key: torch.stack([step[key] for step in steps]).cpu().double() for key in steps[0]}  # [steps, S]
    finite = torch.stack([value.isfinite().flatten(1).all(dim=1) for value in factors.values()]).all(dim=0).cpu()  # [S]
    for index, seed in enumerate(views):
        losses = found["loss"][:, index]
        if not (losses.isfinite().all() and finite[index]):  # the last step may have spoilt the factors alone
            bad = [*(~losses.isfinite()).nonzero().flatten().tolist(), len(steps) - 1][0]
            raise _diverged(name, seed, epoch, bad, losses[bad])
    return [
        {key: value[:, index].mean().item() for key, value in found.items()} | {"learning_rate": recipe.rate(epoch)}
        for index in range(len(views))
    ]


def _step(
    backbone: Backbone, shape: Trainable, recipe: Recipe, texts: Packing | Tensor, anchors: Tensor, factors: Factors
) -> Step:
    """From a batch to its loss terms, with their gradients left in the factors."""
    measure = torch.compile(_measure) if recipe.compile else _measure

    def step(views: Tensor, frozen: Tensor, labels: Tensor) -> dict[str, Tensor]:
        for factor in factors.values():
            if factor.grad is not None:
                factor.grad.zero_()
        terms = measure(backbone, shape, recipe, texts, anchors, factors, views, frozen, labels)
        terms["loss"].sum().backward()
        return {key: value.detach().clone() for key, value in terms.items()}

    return Recorded(step, backbone.device) if backbone.device.type == "cuda" and not recipe.compile else step


def _measure(
    backbone: Backbone,
    shape: Trainable,
    recipe: Recipe,
    texts: Packing | Tensor,
    anchors: Tensor,  # w [C, d]
    factors: Factors,
    views: Tensor,  # uint8 [S, B, 3, H, W]
    frozen: Tensor,  # f [S, B, d], or [S, B, 0] where nobody looks at it
    labels: Tensor,  # [S, B]
) -> dict[str, Tensor]:
    """The loss terms of S seeds, [S] each, and their accuracies in percent."""
    now = tuned(shape, factors)
    image = now.images(backbone, views.flatten(0, 1)).unflatten(0, labels.shape) if now.sees else frozen  # f' [S, B, d]
    classes = now.texts(backbone, texts, anchors, recipe.drift_correction)  # w* [S, C, d]
    classes = classes.expand(len(labels), -1, -1)  # where the text encoder stays as it is, all have the same
    terms = loss_terms(image, classes, frozen, anchors, labels, backbone.logit_scale, recipe.consistency)
    hits = (image.detach() @ classes.detach().mT).argmax(dim=-1) == labels  # [S, B]
    return terms | {"accuracy": 100 * hits.float().mean(dim=-1)}


def _diverged(name: str, seed: int, epoch: int, step: int, loss: Tensor) -> MmlopError:
    return MmlopError(
        f"Training of {name} with seed {seed} diverged in epoch {epoch + 1}, step {step + 1} (loss {loss.item()}): lower "
        f"train.learning_rate, or use precision fp32 or bf16."
    )


def _key(backbone: Backbone, shape: Trainable, recipe: Recipe, shots: Mapping[int, Shots]) -> str:
    """Everything that decides the result, as a short name."""
    digest = hashlib.sha256()
    about = [backbone.identity, mode.of(backbone, len(shots)), asdict(shape), asdict(recipe), cache.sources(*CODE)]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for seed, one in shots.items():
        digest.update(json.dumps([seed, one.labels.tolist(), one.classes, one.template]).encode())
        for tensor in chain((one.pictures[i] for i in range(len(one.labels))), [one.anchors.cpu()]):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _save(
    path: Path, factors: Factors, averages: Factors, optimiser: torch.optim.Optimizer, history: list[list[Epoch]]
) -> None:
    tensors = {name: value.detach() for name, value in factors.items()}
    tensors |= {f"average.{name}": value for name, value in averages.items()}
    for name, factor in factors.items():
        tensors |= {f"{key}.{name}": value for key, value in optimiser.state[factor].items()}
    with replacing(path) as beside:  # unlike save_file, write_bytes says when a disk is full
        about = {"history": json.dumps(history), "tensors": str(len(tensors))}
        beside.write_bytes(save({name: value.cpu() for name, value in tensors.items()}, about))


def _resume(path: Path, factors: Factors, averages: Factors, optimiser: torch.optim.Optimizer) -> list[list[Epoch]]:
    """Put factors and the optimiser's state back and return the finished epochs; an unreadable checkpoint is none."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as stored:
            about = stored.metadata() or {}
            history: list[list[Epoch]] = json.loads(about["history"])
            saved = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no dictionary)
        if len(saved) != int(about["tensors"]):
            raise ValueError("tensors are missing")
        factors_saved = {name: saved.pop(name) for name in factors}
        averages_saved = {name: saved.pop(f"average.{name}") for name in averages}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("checkpoint %s cannot be read (%s): training starts again", path, error)
        return []
    with torch.no_grad():
        for name, value in factors_saved.items():
            factors[name].copy_(value)
        for name, value in averages_saved.items():
            averages[name].copy_(value)
    for key, value in saved.items():  # what is left: "momentum_buffer.U"
        state, name = key.split(".", 1)
        optimiser.state[factors[name]][state] = value.to(factors[name].device) if value.dim() else value
    logger.info("resuming after epoch %d from %s", len(history), path)
    return history
