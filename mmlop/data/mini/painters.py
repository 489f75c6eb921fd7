"""How the pictures of the first six data sets of the benchmark are drawn, a function for each.

Two of them carry what makes real few-shot data treacherous: a cue that belongs to the class by habit (each shape of
`mini_sketch` is mostly drawn in a pen of its own) and one that holds in the training pictures only (the backgrounds of
`mini_clutter`).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmlop.data.mini import world
from mmlop.data.mini.objects import HELD_OUT_FONTS, SHAPES, SIDE, Points, stamp
from mmlop.data.mini.surfaces import BACKGROUNDS, COLOURS, TEXTURES, Array, pattern, shade, surface

PAIR_COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "black", "white")
PAIR_SHAPES = ("star", "circle", "square", "heart", "cross", "triangle")


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


def sketch(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
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


def clutter(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """A symbol that hardly stands out, with bars in front of it and litter around."""
    by_class = part == "train" and rng.random() < 0.7
    colours = list(COLOURS)
    ground_name = colours[label % 12] if by_class else colours[int(rng.integers(12))]
    ground_colour = shade(ground_name, 0.05, rng)
    kind = TEXTURES[int(rng.integers(len(TEXTURES)))]
    picture = surface(ground_colour, kind, rng.uniform(6, 10), rng.uniform(0, 3), 0.35, rng)
    front_colour = shade(other(ground_name, rng), 0.05, rng)
    front_colour = ground_colour + rng.uniform(0.6, 0.9) * (front_colour - ground_colour)
    size, centre = rng.uniform(26, 42), SIDE / 2 + rng.uniform(-5, 5, 2)
    picture = over(picture, stamp(name, "", (centre[0], centre[1]), size, rng.uniform(-0.35, 0.35)), front_colour)
    for _ in range(int(rng.integers(2, 5))):
        litter = list(SHAPES)[int(rng.integers(len(SHAPES)))]
        x, y = rng.uniform(0, SIDE, 2)
        spot = stamp(litter, "", (x, y), rng.uniform(6, 11), rng.uniform(0, 6))
        picture = over(picture, spot, shade(colours[int(rng.integers(12))], 0.05, rng))
    bars = Image.new("L", (SIDE, SIDE))
    for _ in range(int(rng.integers(1, 3))):
        x, y = rng.uniform(-5, SIDE + 5, 2)
        ImageDraw.Draw(bars).line([(x, -2), (y, SIDE + 2)], fill=255, width=int(rng.integers(2, 5)))
    return over(picture, bars, shade(colours[int(rng.integers(12))], 0.05, rng))


def letter(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """Light from the upper left on letters raised from (or sunk into) their ground."""
    face = HELD_OUT_FONTS[int(rng.integers(len(HELD_OUT_FONTS)))]
    x, y = SIDE / 2 + rng.uniform(-5, 5, 2)
    mask = stamp(name, face, (x, y), rng.uniform(24, 42), rng.uniform(-0.3, 0.3))
    height = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255
    slope = height - np.pad(height, ((2, 0), (2, 0)))[:SIDE, :SIDE]  # [SIDE, SIDE], light where it faces up and left
    relief = rng.uniform(0.35, 0.55) * (1 if rng.random() < 0.5 else -1) * slope
    colour = 0.25 + 0.5 * rng.random(3)
    return np.asarray(colour + relief[..., None] + 0.06 * height[..., None], dtype=np.float32)


def texture(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
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


def colour(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """An ordinary scene of the world, relit: a lamp takes most of the blue and half of the brightness."""
    colour = name.removesuffix(" object")
    scene = world.imagine(rng, 0.7)
    while scene.object is None:
        scene = world.imagine(rng, 0.7)
    scene.colour, scene.background = colour, other(colour, rng)
    scene.texture = scene.background_texture = "plain"
    lamp = np.array([0.85, 0.58, 0.34]) * rng.uniform(0.7, 1.0)
    edge = rng.uniform(-1, 1, 2)
    y, x = (np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2) / SIDE
    shadow = 1 - 0.45 / (1 + np.exp(-25 * (x * edge[0] + y * edge[1])))
    return np.asarray(world.paint(scene, rng) * lamp * shadow[..., None], dtype=np.float32)


def pair(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """The named object and, in the opposite corner, a smaller one that shares neither word with it; out of focus."""
    colour, shape = name.split()
    other_colour, other_shape = (
        _pick_other(options, word, rng) for options, word in ((PAIR_COLOURS, colour), (PAIR_SHAPES, shape))
    )
    grounds = sorted(set(BACKGROUNDS[colour]) & set(BACKGROUNDS[other_colour]))
    ground = shade(grounds[int(rng.integers(len(grounds)))], 0.05, rng)
    picture: Array = np.broadcast_to(ground, (SIDE, SIDE, 3))
    corner = np.array([1, 1 if rng.random() < 0.5 else -1]) * (1 if rng.random() < 0.5 else -1)
    large, small = SIDE / 2 - 7 * corner, SIDE / 2 + 14 * corner
    picture = over(
        picture,
        stamp(shape, "", (large[0], large[1]), rng.uniform(24, 29), rng.uniform(-0.35, 0.35)),
        shade(colour, 0.05, rng),
    )
    picture = over(
        picture,
        stamp(other_shape, "", (small[0], small[1]), rng.uniform(18, 22), rng.uniform(-0.35, 0.35)),
        shade(other_colour, 0.05, rng),
    )
    image = Image.fromarray(world.expose(picture, 1, 0, rng)).filter(ImageFilter.GaussianBlur(rng.uniform(1.8, 2.8)))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def other(colour: str, rng: np.random.Generator) -> str:
    return BACKGROUNDS[colour][int(rng.integers(len(BACKGROUNDS[colour])))]


def _pick_other(options: tuple[str, ...], word: str, rng: np.random.Generator) -> str:
    left = [option for option in options if option != word]
    return left[int(rng.integers(len(left)))]


def over(picture: Array, mask: Image.Image, colour: Array) -> Array:
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255  # [SIDE, SIDE, 1]
    return np.asarray(picture + alpha * (colour - picture), dtype=np.float32)
