"""Pretrains mini-CLIP on the mini world: a contrastive loss, helped by labels that go through the text tower.

The contrastive loss alone learns colours and then stalls for a long time. Four things get it moving on two CPU cores: a
sin-cos start of the visual positions, Muon for the matrices of the blocks, a cross-entropy against the encoded names
("a photo of a star.") of every object, colour and texture, and a curriculum from large plain centred objects to all of
the world. The names are encoded by the text tower at each step, so what is learned stays a CLIP and nothing else.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmlop.data.mini import clip
from mmlop.data.mini.objective import MAX_CAPTION, MAX_NAME, PARTS, Words, class_names, measure, to_images, total_loss
from mmlop.data.mini.world import NOUNS, TEMPLATES, Batch, draw_batch
from mmlop.errors import MmlopError
from mmlop.files import replacing

log = logging.getLogger(__name__)

Optimisers = tuple[torch.optim.Optimizer, torch.optim.Optimizer]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights; a checkpoint is continued with the same recipe, but for its length."""

    steps: int  # of the whole run; may change between two sittings, so that a slow run can still end in time
    seed: int = 0
    batch: int = 160  # pictures per step; few enough for many steps in an hour, enough for contrast
    rate: float = 2e-3  # of both optimisers, which share a scale (match_rms_adamw)
    warmup: int = 60  # steps
    hold: float = 0.25  # share of the steps at the full rate, before the linear decay
    last_rate: float = 0.02  # share of the rate at the last step
    curriculum: int = 90_000  # pictures until the world is at its full difficulty
    label_weights: tuple[float, float, float] = (1.0, 0.4, 0.4)  # object, colour, texture
    bf16: bool = True  # autocast; weights and losses stay in fp32
    model: dict[str, Any] = field(default_factory=lambda: clip.MODEL)


def sincos_positions(grid: int, width: int) -> Tensor:
    """2-D sin-cos positions for a class token and grid x grid patches. Returns [1 + grid * grid, width]."""
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))  # [width / 4]; a small grid needs few octaves
    along = torch.arange(grid).float()[:, None] * frequency  # [grid, width / 4]
    one = torch.cat([along.sin(), along.cos()], dim=1)  # [grid, width / 2]
    rows, columns = one[:, None].expand(-1, grid, -1), one[None].expand(grid, -1, -1)
    return torch.cat([torch.zeros(1, width), torch.cat([rows, columns], dim=2).reshape(grid * grid, width)])


def start(recipe: Recipe, vocab_size: int) -> CLIP:
    """The model before its first step, drawn from the seed without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = clip.build(recipe.model, vocab_size)
    positions = model.visual.positional_embedding
    grid = math.isqrt(positions.shape[0] - 1)
    with torch.no_grad():
        positions.copy_(0.7 * sincos_positions(grid, positions.shape[1]))
    return model.train()


def optimisers(model: CLIP, recipe: Recipe) -> Optimisers:
    """Muon for the matrices inside the blocks, AdamW for embeddings, projections, gains and biases."""
    blocks = [*model.visual.transformer.parameters(), *model.transformer.parameters()]
    matrices = [each for each in blocks if each.ndim == 2]
    inside = {id(each) for each in matrices}
    others = [each for each in model.parameters() if id(each) not in inside]
    return (
        torch.optim.Muon(matrices, lr=recipe.rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=4),
        torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0),
    )


def rate_at(recipe: Recipe, step: int) -> float:
    """Linear warm-up, constant, then linear decay to `last_rate` at the last step."""
    held = recipe.hold * recipe.steps
    decay = max(0.0, (step - held) / max(1.0, recipe.steps - held))
    return recipe.rate * min(1.0, (step + 1) / recipe.warmup) * (1 - decay * (1 - recipe.last_rate))


@contextmanager
def _batches(recipe: Recipe, workers: int) -> Iterator[Callable[[int], Batch]]:
    """Gives a function from step to batch; with workers, the next steps are drawn while the caller learns."""

    def arguments(step: int) -> tuple[int, int, int, float]:
        start_at = step * recipe.batch
        return recipe.seed, start_at, recipe.batch, min(1.0, start_at / max(1, recipe.curriculum))

    if workers == 0:
        yield lambda step: draw_batch(*arguments(step))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead: dict[int, Future[Batch]] = {}

        def fetch(step: int) -> Batch:
            for later in range(step, min(step + 2 * workers + 1, recipe.steps)):
                if later not in ahead:
                    ahead[later] = pool.submit(draw_batch, *arguments(later))
            return ahead.pop(step).result()

        yield fetch


class Trainer:
    """A run that can be stopped after any step and continued to the same weights."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        self.recipe = recipe
        self.checkpoint = work / "checkpoint.pt"
        self.words = Words()
        self.model = start(recipe, len(self.words.known))
        self.optimisers = optimisers(self.model, recipe)
        self.step = 0
        self.seconds = 0.0  # of wall time in all sittings
        self.lengths = [[0, recipe.steps]]  # from which step on the run was to have how many

    def advance(self, batch: Batch) -> Tensor:
        """One step. Returns the loss's four parts."""
        rng = np.random.default_rng([self.recipe.seed, self.step, 1])
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        names = [template.format(name) for name in class_names(NOUNS[int(rng.integers(len(NOUNS)))])]
        images, labels = to_images(batch.pixels), torch.from_numpy(batch.labels)
        captions, names_tokens = self.words(batch.captions, MAX_CAPTION), self.words(names, MAX_NAME)
        # PyTorch's fused CPU attention spends most of a step on the backward pass of such short sequences.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16), sdpa_kernel(SDPBackend.MATH):
            loss, parts = total_loss(self.model, images, captions, names_tokens, labels, self.recipe.label_weights)
        loss.backward()
        rate = rate_at(self.recipe, self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))  # CLIP's own ceiling
        self.step += 1
        return parts

    def save(self) -> None:
        """Replaces the checkpoint once the new one is complete, so that a kill leaves the previous one whole."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "lengths": self.lengths,
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        with replacing(self.checkpoint) as beside:
            torch.save(state, beside)

    def resume(self) -> None:
        """Continues from the checkpoint, if there is one.

        Raises:
            MmlopError: if it was made with another recipe.
        """
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        ours = asdict(self.recipe)
        changed = sorted(key for key in ours if key != "steps" and state["recipe"].get(key) != ours[key])
        if changed:
            raise MmlopError(
                f"{self.checkpoint} was made with another {', '.join(changed)}: use the same, or another work folder"
            )
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.seconds, self.lengths = state["step"], state["seconds"], state["lengths"]
        if self.lengths[-1][1] != self.recipe.steps:
            self.lengths.append([self.step, self.recipe.steps])
        log.info("continuing after step %d", self.step)


def install(trainer: Trainer, out: Path) -> dict[str, Any]:
    """Writes the weights as they are now, with how they came to be. Returns that provenance."""
    recipe = trainer.recipe
    trainer.model.eval()
    accuracy = measure(trainer.model, trainer.words)
    provenance = {
        "command": f"mmlop mini pretrain --steps {recipe.steps} --seed {recipe.seed}",
        "finished": trainer.step == recipe.steps,
        "in_domain_zero_shot_percent": accuracy,
        "lengths": [{"from_step": step, "steps": steps} for step, steps in trainer.lengths],
        "note": "Labels supervise too: a cross-entropy of the image feature against class names encoded by the text tower.",
        "pictures": trainer.step * recipe.batch,
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "model"},
        "steps_done": trainer.step,
        "threads": torch.get_num_threads(),
        "versions": {"open_clip": open_clip.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "wall_seconds": round(trainer.seconds),
    }
    clip.save(trainer.model, out, trainer.words.known, recipe.model, provenance)
    trainer.model.train()
    return provenance


def pretrain(
    out: Path,
    steps: int,
    seed: int,
    work: Path,
    *,
    workers: int = 0,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """Trains mini-CLIP and writes it to `out`; a stopped run continues from its checkpoint in `work`.

    Args:
        out: the folder that gets the weights, their configuration and their provenance.
        steps: of the whole run; the learning rate follows them. A run can be continued with another number, which its
            provenance then tells.
        seed: of the pictures and of the starting weights.
        work: the folder of the checkpoint.
        workers: processes that draw pictures; 0 draws them here.
        checkpoint_every: steps between two checkpoints.
        stop_after: leave after this many steps of this sitting, with a checkpoint and without writing `out`.
        recipe: other settings than the default ones; its steps and seed are replaced by the given ones.

    Returns:
        The provenance; only the number of steps done if the run was stopped early.

    Raises:
        MmlopError: if `work` holds the checkpoint of another recipe.
    """
    recipe = replace(recipe or Recipe(steps), steps=steps, seed=seed)
    trainer = Trainer(recipe, work)
    trainer.resume()
    last = steps if stop_after is None else min(steps, trainer.step + stop_after)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _batches(recipe, workers) as batch_at, Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("pretraining", total=steps, completed=trainer.step)
        while trainer.step < last:
            began = time.monotonic()
            parts = trainer.advance(batch_at(trainer.step))
            trainer.seconds += time.monotonic() - began
            bar.advance(task)
            if trainer.step % 20 == 0:
                shown = "  ".join(f"{name} {value:.2f}" for name, value in zip(PARTS, parts.tolist(), strict=True))
                log.info("step %d  %.0f s  %s", trainer.step, trainer.seconds, shown)
                bar.update(task, description=shown)
            if trainer.step % checkpoint_every == 0 or trainer.step == last:
                trainer.save()
    return install(trainer, out) if trainer.step == steps else {"step": trainer.step}
