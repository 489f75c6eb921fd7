"""What training looks at: the shots of a seed as batches of augmented views, each with its frozen features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from mmlop.backbone import Backbone
from mmlop.data.pictures import augment
from mmlop.features import frozen_images, image_features

if TYPE_CHECKING:
    from mmlop.training import Recipe

AHEAD = 64  # views whose frozen features are computed in one pass: a small backbone is much faster so

Batch = tuple[Tensor, Tensor, Tensor]  # views uint8 [B, 3, S, S], their frozen features f [B, d], labels [B]
T = TypeVar("T")


class Pictures(Protocol):
    """Decoded pictures, uint8 [3, H, W] each: a list, or something that decodes them when asked."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True)
class Shots:
    """The labelled pictures of one few-shot task."""

    pictures: Pictures
    labels: Tensor  # [N], 0 .. C-1
    classes: tuple[str, ...]
    template: str  # the data set's; its words before {} initialise layer 0
    anchors: Tensor  # w [C, d], frozen text features averaged over the template list


class Views:
    """The views of one seed: fresh ones in every epoch, or drawn from a bank of ``recipe.views`` of each picture."""

    def __init__(self, backbone: Backbone, recipe: Recipe, shots: Shots, seed: int, frozen: bool = True) -> None:
        """``frozen`` says whether anybody looks at the frozen features; else they are zeros, [B, 0]."""
        self.backbone, self.recipe, self.shots, self.seed, self.frozen = backbone, recipe, shots, seed, frozen
        self._bank = self._fill_bank() if recipe.views else None

    def batches(self, epoch: int) -> Iterator[Batch]:
        """An epoch's batches on the model's device.

        The draws depend on (seed, epoch) alone, so that resuming needs no generator state. An incomplete last batch is
        dropped, as in Dassl.
        """
        size = min(self.recipe.batch_size, len(self.shots.labels))
        pieces = self._pieces(epoch, size)
        for piece in pieces if self.backbone.device.type == "cpu" else _ahead(pieces):
            yield from zip(*(values.split(size) for values in piece), strict=True)

    def means(self) -> Tensor:
        """The mean frozen feature [N, d] of each picture's views; of a bank."""
        assert self._bank is not None
        return self._bank[1].mean(dim=1).to(self.backbone.device)

    def _pieces(self, epoch: int, size: int) -> Iterator[Batch]:
        """Several batches in one."""
        generator = torch.Generator().manual_seed(_draws(self.seed, epoch))
        order = torch.randperm(len(self.shots.labels), generator=generator)
        order = order[: len(order) // size * size]
        take = self.backbone.take
        for chosen in order.split(max(1, AHEAD // size) * size):
            labels = take(self.shots.labels[chosen])
            if self._bank:
                which = torch.randint(self.recipe.views, chosen.shape, generator=generator)
                views, frozen = (values[chosen, which] for values in self._bank)
                yield take(views), take(frozen), labels
            else:
                views = take(self._augment((self.shots.pictures[i] for i in chosen.tolist()), generator))
                yield views, image_features(self.backbone, views) if self.frozen else views.new_empty(len(views), 0), labels

    def _fill_bank(self) -> tuple[Tensor, Tensor]:
        """Views uint8 [N, V, 3, S, S] and their frozen features [N, V, d], which are kept for further runs."""
        generator = torch.Generator().manual_seed(_draws(self.seed, -1))
        count = self.recipe.views
        every = (self.shots.pictures[i] for i in range(len(self.shots.labels)))
        views = self._augment((picture for picture in every for _ in range(count)), generator)
        contents = [hashlib.sha256(view.numpy()).hexdigest()[:16] for view in views]
        frozen = frozen_images(self.backbone, views, contents).cpu()
        return views.unflatten(0, (-1, count)), frozen.unflatten(0, (-1, count))

    def _augment(self, pictures: Iterable[Tensor], generator: torch.Generator) -> Tensor:
        size, recipe = self.backbone.preprocessing.size, self.recipe
        return torch.stack([augment(picture, size, generator, recipe.crop, recipe.flip) for picture in pictures])


def _draws(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big") >> 1


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while one is in use: for a GPU, which should not wait for pictures."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, items, None)
            yield item
