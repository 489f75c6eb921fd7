"""The mini benchmark: data sets whose words mini-CLIP knows and whose pictures look unlike those it was pretrained on.

Seven few-shot data sets move one thing each away from the world: the medium, the clutter, the typeface, the palette, the
light, the company or, with real handwriting, everything. A source and four variants of it, to test on only, serve the
transfer protocols. Three more few-shot sets stay close to the world and tempt an adapter to forget what is not asked for.

A picture's generator is keyed by its data set's place in `TASKS`: new data sets come last, so that no other changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmlop.data.manifest import PARTS
from mmlop.data.mini import cues, painters, variants, world
from mmlop.data.mini.cues import TRAIT_COLOURS, TRAIT_TEXTURES
from mmlop.data.mini.objects import DIGITS, LETTERS, SHAPES, SIDE, SYMBOLS
from mmlop.data.mini.painters import PAIR_COLOURS, PAIR_SHAPES
from mmlop.data.mini.surfaces import COLOURS, TEXTURES, Array

PER_CLASS: Mapping[str, int] = {"train": 32, "val": 16, "test": 40}  # pictures; of real digits at most these


@dataclass(frozen=True)
class MiniTask:
    """One data set of the mini benchmark."""

    name: str
    classes: tuple[str, ...]  # as they are put into the template; the first half (rounded up) is "base"
    template: str  # exactly one "{}"; all its words are known to mini-CLIP
    description: str  # one sentence: what it shows and what shifts
    variant_of: str | None = None  # the data set whose classes, or some of them, it shows otherwise, to test on only

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS if self.variant_of is None else ("test",)


def _mixed(names: list[str]) -> tuple[str, ...]:
    """A fixed order, so that neither half of the classes is special."""
    names = sorted(names)
    random.Random(7).shuffle(names)
    return tuple(names)


# Each shape with four of the colours and each colour with three of the shapes: neither word alone decides.
_PAIRS = [f"{PAIR_COLOURS[(2 * column + row) % 8]} {shape}" for row, shape in enumerate(PAIR_SHAPES) for column in range(4)]

_OBJECTS = _mixed([
    "arrow", "cloud", "crescent", "drop", "flower", "gear", "heart", "hourglass", "house", "lightning", "star", "tree",
    "airplane", "anchor", "cat", "envelope", "flag", "pencil", "scissors", "skull", "snowflake", "sword", "telephone",
    "umbrella",
])  # fmt: skip

# What `_OBJECTS` leaves over, but for four.
_THINGS = _mixed([
    "triangle", "square", "rectangle", "diamond", "trapezoid", "cross", "stairs", "circle", "oval", "hexagon", "ring",
    "semicircle", "king", "queen", "rook", "bishop", "knight", "pawn", "sun", "dice", "note", "spade", "club", "peace",
])  # fmt: skip

TASKS: dict[str, MiniTask] = {
    task.name: task
    for task in (
        MiniTask(
            "mini_sketch",
            _mixed(list(SHAPES)),
            "a drawing of a {}.",
            "24 shapes as wobbly pen outlines on paper instead of filled areas; most are drawn in their class's own pen.",
        ),
        MiniTask(
            "mini_clutter",
            _mixed(list(SYMBOLS)),
            "a photo of a {}.",
            "28 symbols in low contrast behind bars and litter; in training pictures only, backgrounds often go by class.",
        ),
        MiniTask(
            "mini_letters",
            _mixed(list(LETTERS)),
            "a sign with a {}.",
            "26 letters in slanted typefaces never seen in pretraining, embossed in the colour of their ground.",
        ),
        MiniTask(
            "mini_textures",
            _mixed([f"{name} texture" for name in TEXTURES]),
            "a picture of a {}.",
            "10 textures, warped, unevenly lit, and in two unrelated colours instead of two shades of one.",
        ),
        MiniTask(
            "mini_colours",
            _mixed([f"{name} object" for name in COLOURS]),
            "a photo of a {}.",
            "12 colours of objects of all kinds under dim and warm light with a shadow across.",
        ),
        MiniTask(
            "mini_pairs",
            _mixed(_PAIRS),
            "a picture of a {}.",
            "24 pairs of a colour and a shape, blurred, beside a smaller object of another colour and shape.",
        ),
        MiniTask(
            "mini_digits",
            _mixed(list(DIGITS)),
            "a picture of a {}.",
            "Real handwriting: the digits of scikit-learn's 8 x 8 collection instead of printed ones.",
        ),
        MiniTask(
            "mini_objects",
            _OBJECTS,
            "a photo of a {}.",
            "24 shapes and symbols through haze, out of focus and in uneven light: the source of the transfer protocols.",
        ),
        MiniTask(
            "mini_objects_again",
            _OBJECTS,
            "a photo of a {}.",
            "mini_objects drawn anew: nothing shifts but chance.",
            "mini_objects",
        ),
        MiniTask(
            "mini_objects_sketch",
            _OBJECTS,
            "a drawing of a {}.",
            "The classes of mini_objects in chalk on a board.",
            "mini_objects",
        ),
        MiniTask(
            "mini_objects_hard",
            tuple(name for place, name in enumerate(_OBJECTS) if place % 4 in (0, 1)),
            "a photo of a {}.",
            "Half of the classes of mini_objects, small, turned, hardly different from their ground and in company.",
            "mini_objects",
        ),
        MiniTask(
            "mini_objects_art",
            tuple(name for place, name in enumerate(_OBJECTS) if place % 4 in (1, 2)),
            "a picture of a {}.",
            "Another half of the classes of mini_objects as mosaics, embroideries and posters.",
            "mini_objects",
        ),
        MiniTask(
            "mini_grounds",
            _THINGS,
            "a photo of a {}.",
            "24 small things in the world as it is; on their class's own ground in most training and validation pictures.",
        ),
        MiniTask(
            "mini_looks",
            _OBJECTS[:20],
            "a picture of a {}.",
            "20 shapes and symbols, each in a look of its own; those of base classes change tones, of novel ones forms.",
        ),
        MiniTask(
            "mini_traits",
            (*_mixed([f"{name} object" for name in TRAIT_TEXTURES]), *_mixed([f"{name} object" for name in TRAIT_COLOURS])),
            "a photo of a {}.",
            "Shapes by coloured light: base classes are 9 textures in any colour, novel ones 9 colours of plain shapes.",
        ),
    )
}


_PAINTERS: dict[str, Callable[[str, int, str, np.random.Generator], Array]] = {
    "mini_sketch": painters.sketch,
    "mini_clutter": painters.clutter,
    "mini_letters": painters.letter,
    "mini_textures": painters.texture,
    "mini_colours": painters.colour,
    "mini_pairs": painters.pair,
    "mini_objects": variants.photo,
    "mini_objects_again": variants.photo,
    "mini_objects_sketch": variants.sketch,
    "mini_objects_hard": variants.hard,
    "mini_objects_art": variants.art,
    "mini_grounds": cues.ground,
    "mini_looks": cues.look,
    "mini_traits": cues.trait,
}


@lru_cache(maxsize=1)
def _handwriting() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # heavy, and only this data set needs it

    digits = load_digits()
    return digits.images, digits.target


def _render_digits(task: MiniTask, seed: int, per_class: Mapping[str, int]) -> Iterator[tuple[str, int, Image.Image]]:
    """Parts are disjoint draws from each class's pictures, after dropping exact repetitions."""
    images, targets = _handwriting()
    for label, name in enumerate(task.classes):
        rng = np.random.default_rng([seed, label])
        own = np.unique(images[targets == list(DIGITS).index(name)], axis=0)  # [pictures, 8, 8] in 0..16
        order = rng.permutation(len(own))
        first = 0
        for part, count in per_class.items():
            for index in order[first : first + count]:
                small = Image.fromarray((own[index] * (255 / 16)).astype(np.uint8))
                picture = Image.new("L", (SIDE, SIDE))
                picture.paste(small.resize((40, 40), Image.Resampling.BICUBIC), (4, 4))
                yield part, label, picture.convert("RGB")
            first += count


def render(
    task: MiniTask, seed: int = 0, per_class: Mapping[str, int] = PER_CLASS
) -> Iterator[tuple[str, int, Image.Image]]:
    """Draws the whole data set: (part, label, picture), class by class, the same for the same seed; of a variant the test
    part alone.

    Every picture has a generator of its own, keyed by seed, data set, class, part and number.
    """
    if task.name == "mini_digits":
        yield from _render_digits(task, seed, per_class)
        return
    paint, place = _PAINTERS[task.name], list(TASKS).index(task.name)
    for label, name in enumerate(task.classes):
        for which, (part, count) in enumerate(per_class.items()):
            for index in range(count if part in task.parts else 0):
                rng = np.random.default_rng([seed, place, label, which, index])
                picture = paint(name, label, part, rng)
                yield part, label, Image.fromarray(world.expose(picture, 1.0, 0.02, rng))
