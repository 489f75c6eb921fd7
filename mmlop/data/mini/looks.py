"""Twenty looks that a finished picture can be given, each easily told from the others.

The first ten change tones and surfaces (light, ink, relief), the last ten forms (bent, shifted, smeared, hidden): to see
through one half is nothing learned about the other. Their strengths were fixed by zero-shot accuracy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mmlop.data.mini.objects import SIDE
from mmlop.data.mini.surfaces import Array

Look = Callable[[Array, np.random.Generator], Array]  # a picture [SIDE, SIDE, 3] in [0, 1] to another, to be clipped
Shares = Array | NDArray[np.float64]

_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)  # [SIDE, SIDE] each


def _grey(picture: Array) -> Array:
    """Lightness [SIDE, SIDE]."""
    red, green, blue = np.moveaxis(picture, 2, 0)
    return np.asarray(0.3 * red + 0.59 * green + 0.11 * blue, dtype=np.float32)


def _slopes(picture: Array) -> tuple[Array, Array]:
    """How much lighter a pixel is than the one two above, and than the one two to the left; [SIDE, SIDE] each."""
    grey = np.pad(_grey(picture), 2, mode="edge")
    here = grey[2:-2, 2:-2]
    return here - grey[:-4, 2:-2], here - grey[2:-2, :-4]


def _moved(picture: Array, x: Array, y: Array) -> Array:
    """The picture with what was at (x, y) [SIDE, SIDE], rounded and kept inside, now at each pixel."""
    rows, columns = (np.clip(np.rint(place), 0, SIDE - 1).astype(np.int64) for place in (y, x))
    return picture[rows, columns]


def _inked(share: Shares, ink: tuple[float, float, float], paper: tuple[float, float, float]) -> Array:
    """Ink on paper, `share` [SIDE, SIDE] of it at each pixel."""
    blend = np.array(paper) + np.clip(share, 0, 1)[..., None] * (np.array(ink) - np.array(paper))
    return np.asarray(blend, dtype=np.float32)


# Tones and surfaces


def relief(picture: Array, rng: np.random.Generator) -> Array:
    down, right = _slopes(picture)
    return _inked(0.5 - 0.7 * (down + right) - 0.3 * (_grey(picture) - 0.5), (0.1, 0.1, 0.1), (0.9, 0.9, 0.9))


def contours(picture: Array, rng: np.random.Generator) -> Array:
    down, right = _slopes(picture)
    return _inked(2 * np.hypot(down, right) - 0.15, (0.1, 0.1, 0.15), (0.95, 0.95, 0.9))


def haze(picture: Array, rng: np.random.Generator) -> Array:
    return 0.2 * picture + 0.8 * np.array([0.8, 0.82, 0.85], dtype=np.float32)


def dusk(picture: Array, rng: np.random.Generator) -> Array:
    return picture * np.array([0.1, 0.11, 0.22], dtype=np.float32)


def sepia(picture: Array, rng: np.random.Generator) -> Array:
    return _inked(1 - _grey(picture), (0.25, 0.13, 0.03), (1.0, 0.88, 0.65))


def newsprint(picture: Array, rng: np.random.Generator) -> Array:
    """Dots in a grid of 4 pixels, larger where the picture is darker."""
    dots = (np.cos(_X * (math.pi / 2)) + np.cos(_Y * (math.pi / 2))) / 2  # [SIDE, SIDE] in -1..1
    return _inked(1 - _grey(picture) - 0.35 * dots, (0.15, 0.15, 0.15), (0.9, 0.88, 0.82))


def grain(picture: Array, rng: np.random.Generator) -> Array:
    return picture + rng.normal(0, 0.35, (SIDE, SIDE, 1)).astype(np.float32)


def cloth(picture: Array, rng: np.random.Generator) -> Array:
    weave = np.where((_X // 2 + _Y // 2) % 2 == 0, 0.35, 1.0)
    return np.asarray(picture * weave[..., None], dtype=np.float32)


def screen(picture: Array, rng: np.random.Generator) -> Array:
    """Columns that show red, green and blue in turn."""
    return np.asarray(picture * np.where(_X[..., None] % 3 == np.arange(3), 1.0, 0.4), dtype=np.float32)


def stencil(picture: Array, rng: np.random.Generator) -> Array:
    grey = _grey(picture)
    return _inked(np.float32(1) * (grey > grey.mean(dtype=np.float64)), (0.2, 0.75, 0.6), (0.25, 0.1, 0.3))


# Forms


def ripples(picture: Array, rng: np.random.Generator) -> Array:
    return _moved(picture, _X + 2.6 * np.sin(_Y * 0.7 + rng.uniform(0, 6)), _Y)


def lens(picture: Array, rng: np.random.Generator) -> Array:
    """The middle pressed small, as through a concave glass."""
    x, y = _X - SIDE / 2, _Y - SIDE / 2
    nearer = 0.55 + 1.8 * np.exp(-(x * x + y * y) / 150)
    return _moved(picture, SIDE / 2 + x * nearer, SIDE / 2 + y * nearer)


def swirl(picture: Array, rng: np.random.Generator) -> Array:
    x, y = _X - SIDE / 2, _Y - SIDE / 2
    turn = 2.2 * np.exp(-(x * x + y * y) / 200)
    cos, sin = np.cos(turn), np.sin(turn)
    return _moved(picture, SIDE / 2 + cos * x - sin * y, SIDE / 2 + sin * x + cos * y)


def broken(picture: Array, rng: np.random.Generator) -> Array:
    """Shards of 8 pixels, each a little out of its place."""
    dx, dy = (np.kron(rng.integers(-5, 6, (SIDE // 8, SIDE // 8)), np.ones((8, 8))) for _ in range(2))
    return _moved(picture, np.asarray(_X + dx), np.asarray(_Y + dy))


def twice(picture: Array, rng: np.random.Generator) -> Array:
    return 0.5 * picture + 0.5 * _moved(picture, _X - 11, _Y - 6)


def misprint(picture: Array, rng: np.random.Generator) -> Array:
    shifts = ((-7, 2), (0, 0), (6, 5))  # pixels right and down, of red, green and blue
    return np.stack([_moved(picture, _X - x, _Y - y)[..., i] for i, (x, y) in enumerate(shifts)], axis=2)


def smear(picture: Array, rng: np.random.Generator) -> Array:
    return np.asarray(np.mean([_moved(picture, _X - by, _Y) for by in range(-3, 4)], axis=0), dtype=np.float32)


def mosaic(picture: Array, rng: np.random.Generator) -> Array:
    """Tiles of 6 pixels, each of one colour, with dark joints."""
    tiles = picture.reshape(SIDE // 6, 6, SIDE // 6, 6, 3).mean(axis=(1, 3))  # [SIDE / 6, SIDE / 6, 3]
    joints = ((_X % 6 == 5) | (_Y % 6 == 5))[..., None]
    return np.asarray(np.kron(tiles, np.ones((6, 6, 1))) * (1 - 0.4 * joints), dtype=np.float32)


def blinds(picture: Array, rng: np.random.Generator) -> Array:
    slats = ((_Y + rng.integers(10)) % 10 < 2)[..., None]
    return np.asarray(np.where(slats, 0.5, picture), dtype=np.float32)


def snow(picture: Array, rng: np.random.Generator) -> Array:
    flakes = np.kron(rng.random((SIDE // 3, SIDE // 3)) < 0.13, np.ones((3, 3)))[..., None]
    return np.asarray(picture + flakes * (0.97 - picture), dtype=np.float32)


LOOKS: tuple[Look, ...] = (
    *(relief, contours, haze, dusk, sepia, newsprint, grain, cloth, screen, stencil),
    *(ripples, lens, swirl, broken, twice, misprint, smear, mosaic, blinds, snow),
)
