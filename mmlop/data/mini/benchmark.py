"""Seven few-shot data sets whose words mini-CLIP knows and whose pictures look unlike those it was pretrained on.

Each data set moves one thing away from the world: the medium, the clutter, the typeface, the palette, the light, the
company or, with real handwriting, everything. Two of them also carry what makes real few-shot data treacherous: a cue
that belongs to the class by habit (each shape of `mini_sketch` is mostly drawn in a pen of its own) and one that holds
in the training pictures only (the backgrounds of `mini_clutter`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from mmlop.data.mini import world
from mmlop.data.mini.objects import DIGITS, HELD_OUT_FONTS, LETTERS, SHAPES, SIDE, SYMBOLS, Points, stamp
from mmlop.data.mini.surfaces import BACKGROUNDS, COLOURS, TEXTURES, Array, pattern, shade, surface

PER_CLASS: Mapping[str, int] = {"train": 32, "val": 16, "test": 40}  # pictures; of real digits at most these


@dataclass(frozen=True)
class MiniTask:
    """One few-shot data set of the mini benchmark."""

    name: str
    classes: tuple[str, ...]  # as they are put into the template; the first half (rounded up) is "base"
    template: str  # exactly one "{}"; all its words are known to mini-CLIP
    description: str  # one sentence: what it shows and what shifts


def _mixed(names: list[str]) -> tuple[str, ...]:
    """A fixed order, so that neither half of the classes is special."""
    names = sorted(names)
    random.Random(7).shuffle(names)
    return tuple(names)


_PAIR_COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "black", "white")
_PAIR_SHAPES = ("star", "circle", "square", "heart", "cross", "triangle")
# Each shape with four of the colours and each colour with three of the shapes: neither word alone decides.
_PAIRS = [
    f"{_PAIR_COLOURS[(2 * column + row) % 8]} {shape}" for row, shape in enumerate(_PAIR_SHAPES) for column in range(4)
]

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
    )
}


def _outline(name: str, rng: np.random.Generator) -> list[Points]:
    """The shape's rings with a trembling hand: points every few degrees, pushed along slow random waves."""
    rings = []
    for ring in SHAPES[name]:
        closed = np.concatenate([ring, ring[:1]])
        steps = np.linalg.norm(np.diff(closed, axis=0), axis=1)
        along = np.concatenate([[0], np.cumsum(steps)]) / steps.sum()  # [points + 1]
        where = np.linspace(0, 1, 72)
        line = np.stack([np.interp(where, along, closed[:, axis]) for axis in (0, 1)], axis=1)  # [72, 2]
        for waves in (2, 3, 5, 9):
            phase = rng.uniform(0, 2 * np.pi, 2)
            line = line + rng.normal(0, 0.13 / waves, 2) * np.sin(2 * np.pi * waves * where[:, None] + phase)
        rings.append(line[: int(rng.integers(66, 73))])  # the pen may lift before the line closes
    return rings


def _sketch(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """Drawn at three times the size; two or three strokes over one another."""
    pen = label if rng.random() < 0.75 else int(rng.integers(len(SHAPES)))
    ink = 0.45 * np.array(list(COLOURS.values()))[pen % 9] + rng.uniform(0, 0.15)
    paper = np.array([0.93, 0.91, 0.84]) + rng.normal(0, 0.03, 3)
    big = Image.new("L", (3 * SIDE, 3 * SIDE))
    draw = ImageDraw.Draw(big)
    radius, turn = rng.uniform(38, 62), rng.uniform(-0.3, 0.3)
    middle = 1.5 * SIDE + rng.uniform(-10, 10, 2)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for _ in range(int(rng.integers(1, 4))):
        for ring in _outline(name, rng):
            points = middle + radius * ring @ spin.T
            draw.line([(x, y) for x, y in points], fill=int(rng.integers(130, 255)), width=int(rng.integers(2, 6)))
    alpha = np.asarray(big.reduce(3), dtype=np.float32)[..., None] / 255
    grain = rng.normal(0, 0.03, (SIDE, SIDE, 1))
    return np.asarray(paper + grain + alpha * (ink - paper), dtype=np.float32)


def _clutter(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """A symbol that hardly stands out, with bars in front of it and litter around."""
    by_class = part == "train" and rng.random() < 0.7
    colours = list(COLOURS)
    ground_name = colours[label % 12] if by_class else colours[int(rng.integers(12))]
    ground_colour = shade(ground_name, 0.05, rng)
    kind = TEXTURES[int(rng.integers(len(TEXTURES)))]
    picture = surface(ground_colour, kind, rng.uniform(6, 10), rng.uniform(0, 3), 0.35, rng)
    front_colour = shade(_other(ground_name, rng), 0.05, rng)
    front_colour = ground_colour + rng.uniform(0.6, 0.9) * (front_colour - ground_colour)
    size, centre = rng.uniform(26, 42), SIDE / 2 + rng.uniform(-5, 5, 2)
    picture = _over(picture, stamp(name, "", (centre[0], centre[1]), size, rng.uniform(-0.35, 0.35)), front_colour)
    for _ in range(int(rng.integers(2, 5))):
        litter = list(SHAPES)[int(rng.integers(len(SHAPES)))]
        x, y = rng.uniform(0, SIDE, 2)
        spot = stamp(litter, "", (x, y), rng.uniform(6, 11), rng.uniform(0, 6))
        picture = _over(picture, spot, shade(colours[int(rng.integers(12))], 0.05, rng))
    bars = Image.new("L", (SIDE, SIDE))
    for _ in range(int(rng.integers(1, 3))):
        x, y = rng.uniform(-5, SIDE + 5, 2)
        ImageDraw.Draw(bars).line([(x, -2), (y, SIDE + 2)], fill=255, width=int(rng.integers(2, 5)))
    return _over(picture, bars, shade(colours[int(rng.integers(12))], 0.05, rng))


def _letter(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """Light from the upper left on letters raised from (or sunk into) their ground."""
    face = HELD_OUT_FONTS[int(rng.integers(len(HELD_OUT_FONTS)))]
    x, y = SIDE / 2 + rng.uniform(-5, 5, 2)
    mask = stamp(name, face, (x, y), rng.uniform(24, 42), rng.uniform(-0.3, 0.3))
    height = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255
    slope = height - np.pad(height, ((2, 0), (2, 0)))[:SIDE, :SIDE]  # [SIDE, SIDE], light where it faces up and left
    relief = rng.uniform(0.35, 0.55) * (1 if rng.random() < 0.5 else -1) * slope
    colour = 0.25 + 0.5 * rng.random(3)
    return np.asarray(colour + relief[..., None] + 0.06 * height[..., None], dtype=np.float32)


def _texture(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """The pattern at coordinates bent by slow waves; its two colours have nothing to do with one another."""
    kind = name.removesuffix(" texture")
    period, lean = rng.uniform(5.5, 9), rng.uniform(-0.2, 0.2) if kind == "brick" else rng.uniform(0, 3)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) - rng.uniform(0.3, 0.7, (2, 1, 1)) * SIDE
    phase = rng.uniform(0, 2 * np.pi, 2)
    x, y = x + 3.5 * np.sin(y / 9 + phase[0]), y + 3.5 * np.sin(x / 9 + phase[1])
    u, v = (np.cos(lean) * x + np.sin(lean) * y) / period, (np.cos(lean) * y - np.sin(lean) * x) / period
    amount = pattern(kind, u.astype(np.float32), v.astype(np.float32), rng)[..., None]  # [SIDE, SIDE, 1]
    first, second = rng.random(3), rng.random(3)
    while abs(float((first - second).sum())) < 0.6:
        second = rng.random(3)
    light = 1 + 0.25 * np.sin(x[..., None] / 15 + phase[0])  # so that even a plain surface is not flat
    return np.asarray((first + amount * (second - first)) * light, dtype=np.float32)


def _colour(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """An ordinary scene of the world, relit: a lamp takes most of the blue and half of the brightness."""
    colour = name.removesuffix(" object")
    scene = world.imagine(rng, 0.7)
    while scene.object is None:
        scene = world.imagine(rng, 0.7)
    scene.colour, scene.background = colour, _other(colour, rng)
    scene.texture = scene.background_texture = "plain"
    lamp = np.array([0.85, 0.58, 0.34]) * rng.uniform(0.7, 1.0)
    edge = rng.uniform(-1, 1, 2)
    y, x = (np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2) / SIDE
    shadow = 1 - 0.45 / (1 + np.exp(-25 * (x * edge[0] + y * edge[1])))
    return np.asarray(world.paint(scene, rng) * lamp * shadow[..., None], dtype=np.float32)


def _pair(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """The named object and, in the opposite corner, a smaller one that shares neither word with it; out of focus."""
    colour, shape = name.split()
    other_colour, other_shape = (
        _pick_other(options, word, rng) for options, word in ((_PAIR_COLOURS, colour), (_PAIR_SHAPES, shape))
    )
    grounds = sorted(set(BACKGROUNDS[colour]) & set(BACKGROUNDS[other_colour]))
    ground = shade(grounds[int(rng.integers(len(grounds)))], 0.05, rng)
    picture: Array = np.broadcast_to(ground, (SIDE, SIDE, 3))
    corner = np.array([1, 1 if rng.random() < 0.5 else -1]) * (1 if rng.random() < 0.5 else -1)
    large, small = SIDE / 2 - 7 * corner, SIDE / 2 + 14 * corner
    picture = _over(
        picture,
        stamp(shape, "", (large[0], large[1]), rng.uniform(24, 29), rng.uniform(-0.35, 0.35)),
        shade(colour, 0.05, rng),
    )
    picture = _over(
        picture,
        stamp(other_shape, "", (small[0], small[1]), rng.uniform(18, 22), rng.uniform(-0.35, 0.35)),
        shade(other_colour, 0.05, rng),
    )
    image = Image.fromarray(world.expose(picture, 1, 0, rng)).filter(ImageFilter.GaussianBlur(rng.uniform(1.8, 2.8)))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _other(colour: str, rng: np.random.Generator) -> str:
    return BACKGROUNDS[colour][int(rng.integers(len(BACKGROUNDS[colour])))]


def _pick_other(options: tuple[str, ...], word: str, rng: np.random.Generator) -> str:
    left = [option for option in options if option != word]
    return left[int(rng.integers(len(left)))]


def _over(picture: Array, mask: Image.Image, colour: Array) -> Array:
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255  # [SIDE, SIDE, 1]
    return np.asarray(picture + alpha * (colour - picture), dtype=np.float32)


_PAINTERS: dict[str, Callable[[str, int, str, np.random.Generator], Array]] = {
    "mini_sketch": _sketch,
    "mini_clutter": _clutter,
    "mini_letters": _letter,
    "mini_textures": _texture,
    "mini_colours": _colour,
    "mini_pairs": _pair,
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
    """Draws the whole data set: (part, label, picture), class by class, the same for the same seed.

    Every picture has a generator of its own, keyed by seed, data set, class, part and number.
    """
    if task.name == "mini_digits":
        yield from _render_digits(task, seed, per_class)
        return
    paint, place = _PAINTERS[task.name], list(TASKS).index(task.name)
    for label, name in enumerate(task.classes):
        for which, (part, count) in enumerate(per_class.items()):
            for index in range(count):
                rng = np.random.default_rng([seed, place, label, which, index])
                picture = paint(name, label, part, rng)
                yield part, label, Image.fromarray(world.expose(picture, 1.0, 0.02, rng))
