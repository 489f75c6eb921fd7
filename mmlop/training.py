"""The training loop: prompts learned from a few pictures per class, resumable after any epoch to the same bits."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmlop import cache, mode
from mmlop.backbone import Backbone
from mmlop.encode import Packing, encode_image
from mmlop.errors import MmlopError
from mmlop.features import prompted_text, prompted_tokens
from mmlop.files import replacing
from mmlop.losses import Consistency, loss_terms, unit
from mmlop.prompts import Factors, PromptShape, compose, initialise
from mmlop.recorded import Recorded, Step
from mmlop.views import Shots, Views

logger = logging.getLogger(__name__)

CODE = ("backbone.py", "encode.py", "features.py", "losses.py", "prompts.py", "training.py", "views.py", "data/pictures.py")

Epoch = dict[str, float]  # mean of each loss term, training accuracy in percent, learning rate


@dataclass(frozen=True)
class Recipe:
    """How prompts are trained. The defaults are the paper's, or PromptSRC's where it is silent."""

    epochs: int = 30
    batch_size: int = 4
    learning_rate: float = 0.0025
    warmup_epochs: int = 1
    warmup_rate: float = 1e-5  # constant during warm-up
    momentum: float = 0.9
    weight_decay: float = 5e-4
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


@dataclass(frozen=True)
class Fit:
    factors: Factors
    history: list[Epoch]


def fit(
    backbone: Backbone,
    shape: PromptShape,
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
    shape: PromptShape,
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
    texts = Packing(prompted_tokens(backbone, first.classes, shape.tokens), shape.tokens)
    words = backbone.word_embeddings(first.template.split("{}")[0])
    starts = [initialise(shape, words, torch.Generator().manual_seed(seed)) for seed in seeds]
    factors = {key: torch.stack([start[key] for start in starts]).to(backbone.device).requires_grad_() for key in starts[0]}
    optimiser = torch.optim.SGD(
        list(factors.values()), lr=recipe.warmup_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    views = {seed: Views(backbone, recipe, one, seed) for seed, one in shots.items()}
    checkpoint = checkpoints / f"{_key(backbone, shape, recipe, shots)}.safetensors" if checkpoints else None
    history = _resume(checkpoint, factors, optimiser) if checkpoint else []
    step = _step(backbone, recipe, texts, first.anchors, factors)
    for epoch in range(len(history), recipe.epochs):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(epoch)
        history.append(_epoch(recipe, views, step, factors, optimiser, epoch, name))
        if checkpoint:
            _save(checkpoint, factors, optimiser, history)
        if on_epoch:
            on_epoch(epoch, dict(zip(seeds, history[-1], strict=True)))
    trained = {key: value.detach().cpu() for key, value in factors.items()}
    return {
        seed: Fit({key: value[index].clone() for key, value in trained.items()}, [epoch[index] for epoch in history])
        for index, seed in enumerate(seeds)
    }


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


def _step(backbone: Backbone, recipe: Recipe, texts: Packing, anchors: Tensor, factors: Factors) -> Step:
    """From a batch to its loss terms, with their gradients left in the factors."""
    measure = torch.compile(_measure) if recipe.compile else _measure

    def step(views: Tensor, frozen: Tensor, labels: Tensor) -> dict[str, Tensor]:
        for factor in factors.values():
            if factor.grad is not None:
                factor.grad.zero_()
        terms = measure(backbone, recipe, texts, anchors, factors, views, frozen, labels)
        terms["loss"].sum().backward()
        return {key: value.detach().clone() for key, value in terms.items()}

    return Recorded(step, backbone.device) if backbone.device.type == "cuda" and not recipe.compile else step


def _measure(
    backbone: Backbone,
    recipe: Recipe,
    texts: Packing,
    anchors: Tensor,  # w [C, d]
    factors: Factors,
    views: Tensor,  # uint8 [S, B, 3, H, W]
    frozen: Tensor,  # f [S, B, d]
    labels: Tensor,  # [S, B]
) -> dict[str, Tensor]:
    """The loss terms of S seeds, [S] each, and their accuracies in percent."""
    vision, text = compose(factors)  # [S, J, n, d_v], [S, J, n, d_t]
    per_view = vision.repeat_interleave(views.shape[1], dim=0)  # [S * B, J, n, d_v]
    features = encode_image(backbone, backbone.normalise(views.flatten(0, 1)), per_view)
    image = unit(features).view_as(frozen)  # f' [S, B, d]
    classes = prompted_text(backbone, texts, text, anchors, recipe.drift_correction)  # w* [S, C, d]
    terms = loss_terms(image, classes, frozen, anchors, labels, backbone.logit_scale, recipe.consistency)
    hits = (image.detach() @ classes.detach().mT).argmax(dim=-1) == labels  # [S, B]
    return terms | {"accuracy": 100 * hits.float().mean(dim=-1)}


def _diverged(name: str, seed: int, epoch: int, step: int, loss: Tensor) -> MmlopError:
    return MmlopError(
        f"Training of {name} with seed {seed} diverged in epoch {epoch + 1}, step {step + 1} (loss {loss.item()}): lower "
        f"train.learning_rate, or use precision fp32 or bf16."
    )


def _key(backbone: Backbone, shape: PromptShape, recipe: Recipe, shots: Mapping[int, Shots]) -> str:
    """Everything that decides the result, as a short name."""
    digest = hashlib.sha256()
    about = [backbone.identity, mode.of(backbone, len(shots)), asdict(shape), asdict(recipe), cache.sources(*CODE)]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for seed, one in shots.items():
        digest.update(json.dumps([seed, one.labels.tolist(), one.classes, one.template]).encode())
        for tensor in chain((one.pictures[i] for i in range(len(one.labels))), [one.anchors.cpu()]):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _save(path: Path, factors: Factors, optimiser: torch.optim.Optimizer, history: list[list[Epoch]]) -> None:
    tensors = {name: value.detach().cpu() for name, value in factors.items()}
    for name, value in factors.items():
        tensors[f"momentum.{name}"] = optimiser.state[value]["momentum_buffer"].cpu()
    with replacing(path) as beside:
        beside.write_bytes(save(tensors, {"history": json.dumps(history)}))  # unlike save_file, says when a disk is full


def _resume(path: Path, factors: Factors, optimiser: torch.optim.Optimizer) -> list[list[Epoch]]:
    """Put factors and momentum back and return the finished epochs; an unreadable checkpoint counts as none."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as stored:
            history: list[list[Epoch]] = json.loads((stored.metadata() or {})["history"])
            saved = {name: stored.get_tensor(name) for key in factors for name in (key, f"momentum.{key}")}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("checkpoint %s cannot be read (%s): training starts again", path, error)
        return []
    with torch.no_grad():
        for name, value in factors.items():
            value.copy_(saved[name])
            optimiser.state[value]["momentum_buffer"] = saved[f"momentum.{name}"].to(value.device)
    logger.info("resuming after epoch %d from %s", len(history), path)
    return history
