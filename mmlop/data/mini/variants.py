"""Pictures of one set of things in several manners: what is learned from the first should hold in the others.

`photo` shows the source of the transfer protocols, the counterpart of ImageNet; the others stand for its variants:
`sketch` for ImageNet-Sketch, `hard` for -A (whose pictures were chosen because classifiers fail on them) and `art` for -R
(renditions). -V2 is `photo` once more.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from mmlop.data.mini import world
from mmlop.data.mini.objects import FONTS, SHAPES, SIDE, SYMBOLS, stamp
from mmlop.data.mini.painters import other, over
from mmlop.data.mini.surfaces import COLOURS, TEXTURES, Array, shade, surface

_THINGS = (*SHAPES, *SYMBOLS)
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)  # [SIDE, SIDE] each


def photo(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """A scene of the world through haze and a lens out of focus, with light from one side."""
    scene = world.imagine(rng, 1.0)
    scene.object = name
    light = 1 + rng.uniform(0.2, 0.5) * _slope(rng)[..., None]  # [SIDE, SIDE, 1]
    haze = rng.uniform(0.35, 0.85) * np.ones(3) + rng.normal(0, 0.05, 3)
    share = rng.uniform(0.25, 0.55)
    seen = np.asarray((1 - share) * world.paint(scene, rng) * light + share * haze, dtype=np.float32)
    return _blurred(seen, rng.uniform(0.9, 1.7), rng)


def sketch(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """White chalk on a board: a contour that breaks off, and a few strokes across the inside."""
    mask = _placed(name, rng.uniform(28, 42), 4, rng)
    rim = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask.filter(ImageFilter.MinFilter(3)))
    inside, edge = (np.asarray(layer, dtype=np.float32) / 255 for layer in (mask, rim))  # [SIDE, SIDE] each
    lean = rng.uniform(0, math.pi)
    strokes = (np.cos(lean) * _X + np.sin(lean) * _Y) / rng.uniform(4, 6) % 1 < 0.3
    chalk = np.clip(edge * rng.uniform(0.7, 1.0) + 0.5 * inside * strokes, 0, 1)
    chalk = chalk * (rng.random((SIDE, SIDE)) < 0.85)  # [SIDE, SIDE]; the grain of the board
    board = np.array([0.16, 0.24, 0.20]) * rng.uniform(0.7, 1.3) + 0.06 * _slope(rng)[..., None]
    return np.asarray(board + chalk[..., None] * (rng.uniform(0.75, 0.95) - board), dtype=np.float32)


def hard(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """Small, turned, hardly different from its patterned ground, beside something larger that the frame cuts off."""
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    ground, front = shade(colour, 0.05, rng), shade(other(colour, rng), 0.05, rng)
    kind = TEXTURES[int(rng.integers(len(TEXTURES)))]
    picture = surface(ground, kind, rng.uniform(6, 10), rng.uniform(0, 3), 0.35, rng)
    side = rng.uniform(0, 2 * math.pi)
    x, y = SIDE / 2 + 27 * math.cos(side), SIDE / 2 + 27 * math.sin(side)
    company = stamp(_THINGS[int(rng.integers(len(_THINGS)))], FONTS[0], (x, y), rng.uniform(30, 40), rng.uniform(0, 6))
    picture = over(picture, company, shade(other(colour, rng), 0.05, rng))
    x, y = SIDE / 2 - rng.uniform(3, 9) * math.cos(side), SIDE / 2 - rng.uniform(3, 9) * math.sin(side)
    mask = stamp(name, FONTS[0], (x, y), rng.uniform(18, 28), rng.uniform(-0.8, 0.8))
    return _blurred(over(picture, mask, ground + rng.uniform(0.5, 0.9) * (front - ground)), rng.uniform(0.4, 1.0), rng)


def art(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """A mosaic, an embroidery or a poster, in two colours that can be told apart."""
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    mask = _placed(name, rng.uniform(34, 44), 2, rng)
    ground, front = shade(other(colour, rng), 0.05, rng), shade(colour, 0.05, rng)
    return (_mosaic, _embroidery, _poster)[int(rng.integers(3))](mask, ground, front, rng)


def _mosaic(mask: Image.Image, ground: Array, front: Array, rng: np.random.Generator) -> Array:
    """Tiles of three pixels, each of one colour and none of quite the same, with dark joints."""
    tiles = np.asarray(mask.reduce(3), dtype=np.float32)[..., None] / 255  # [SIDE / 3, SIDE / 3, 1]
    colours = ground + np.round(tiles) * (front - ground) + rng.normal(0, 0.08, (SIDE // 3, SIDE // 3, 3))
    joints = ((_X % 3 == 2) | (_Y % 3 == 2))[..., None]
    return np.asarray(np.kron(colours, np.ones((3, 3, 1))) * (1 - 0.4 * joints), dtype=np.float32)


def _embroidery(mask: Image.Image, ground: Array, front: Array, rng: np.random.Generator) -> Array:
    """Threads one way in the object and across it in the cloth, whose ends make the contour ragged."""
    alpha = np.asarray(mask, dtype=np.float32) / 255
    shift = rng.integers(-2, 3, SIDE)  # pixels, of each row
    alpha = np.stack([np.roll(row, by) for row, by in zip(alpha, shift, strict=True)])[..., None]
    lean = rng.uniform(0, math.pi)
    along, across = np.cos(lean) * _X + np.sin(lean) * _Y, np.cos(lean) * _Y - np.sin(lean) * _X
    threads, cloth = (0.75 + 0.25 * np.sin(line * 2.2)[..., None] for line in (along, across))
    return np.asarray(alpha * front * threads + (1 - alpha) * ground * cloth, dtype=np.float32)


def _poster(mask: Image.Image, ground: Array, front: Array, rng: np.random.Generator) -> Array:
    """Three inks printed one after another, none quite in its place."""
    picture: Array = np.broadcast_to(ground, (SIDE, SIDE, 3))
    for ink in (rng.random(3), rng.random(3), front):
        dx, dy = rng.integers(-4, 5, 2) if ink is not front else (0, 0)
        moved = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -int(dx), 0, 1, -int(dy)))
        picture = over(picture, moved, np.asarray(ink, dtype=np.float32))
    return picture


def _placed(name: str, size: float, slack: float, rng: np.random.Generator) -> Image.Image:
    x, y = SIDE / 2 + rng.uniform(-slack, slack, 2)
    return stamp(name, FONTS[0], (x, y), size, rng.uniform(-0.35, 0.35))


def _slope(rng: np.random.Generator) -> Array:
    """From -1 to 1 across the picture [SIDE, SIDE], in any direction."""
    lean = rng.uniform(0, 2 * math.pi)
    return np.asarray((np.cos(lean) * (_X - SIDE / 2) + np.sin(lean) * (_Y - SIDE / 2)) / (0.71 * SIDE), dtype=np.float32)


def _blurred(picture: Array, radius: float, rng: np.random.Generator) -> Array:
    image = Image.fromarray(world.expose(picture, 1, 0, rng)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / np.float32(255)
