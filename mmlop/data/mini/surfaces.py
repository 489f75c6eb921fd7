"""Colours and textures of the mini world: what every object and background is made of."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mmlop.data.mini.objects import SIDE

Array = NDArray[np.float32]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.96, 0.90, 0.18),
    "green": (0.15, 0.64, 0.20),
    "cyan": (0.20, 0.85, 0.88),
    "blue": (0.14, 0.26, 0.86),
    "purple": (0.55, 0.17, 0.72),
    "pink": (0.98, 0.56, 0.76),
    "brown": (0.46, 0.27, 0.12),
    "black": (0.07, 0.07, 0.07),
    "white": (0.95, 0.95, 0.95),
    "grey": (0.52, 0.52, 0.52),
}
TEXTURES = (
    "plain",
    "striped",
    "dotted",
    "checkered",
    "wavy",
    "zigzag",
    "brick",
    "speckled",
    "marbled",
    "ringed",
)

_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)  # [SIDE, SIDE] each


def texture(kind: str, period: float, lean: float, rng: np.random.Generator) -> Array:
    """A pattern with values in [0, 1] over the whole picture.

    Args:
        kind: one of TEXTURES.
        period: pixels per repetition.
        lean: radians by which the pattern is turned.
        rng: draws the pattern's offset and, for "speckled", its grains.

    Returns:
        [SIDE, SIDE], 0 where the ground shows and 1 where the pattern does.
    """
    x, y = rng.uniform(0, 2 * period, 2)
    if kind == "ringed":
        x, y = rng.uniform(0.35 * SIDE, 0.65 * SIDE, 2)
    cos, sin = math.cos(lean) / period, math.sin(lean) / period
    u = (_X - x) * cos + (_Y - y) * sin
    v = (_Y - y) * cos - (_X - x) * sin
    return pattern(kind, u, v, rng)


def pattern(kind: str, u: Array, v: Array, rng: np.random.Generator) -> Array:
    """The pattern at coordinates u, v, counted in periods; `texture` says the rest."""
    if kind == "plain":
        return np.zeros_like(u)
    if kind == "speckled":
        grains = rng.random((SIDE // 2, SIDE // 2), dtype=np.float32) < 0.22
        return np.kron(grains, np.ones((2, 2))).astype(np.float32)
    if kind == "striped":
        mask = u % 1 < 0.5
    elif kind == "dotted":
        mask = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1
    elif kind == "checkered":
        mask = (np.floor(u * 1.4) + np.floor(v * 1.4)) % 2 == 0
    elif kind == "wavy":
        mask = (u + 0.3 * np.sin(v * (2 * math.pi / 2.2))) % 1 < 0.5
    elif kind == "zigzag":
        mask = (u + np.abs(v % 2 - 1)) % 1 < 0.5
    elif kind == "brick":
        row = np.floor(v * 1.2)
        mask = (v * 1.2 % 1 < 0.25) | ((u * 0.7 + 0.5 * (row % 2)) % 1 < 0.18)
    elif kind == "marbled":
        veins = np.sin(1.3 * u + 1.6 * np.sin(0.9 * v)) + np.sin(0.8 * v + 1.9 * np.sin(0.7 * u) + 1)
        mask = np.abs(veins) < 0.4
    elif kind == "ringed":
        mask = np.sqrt(u * u + v * v) % 1 < 0.5
    else:
        raise ValueError(f"unknown texture {kind!r}: expected one of {', '.join(TEXTURES)}")
    return np.asarray(mask, dtype=np.float32)


def second_shade(colour: Array, contrast: float) -> Array:
    """The same colour, darker; or lighter where it is too dark for that to show."""
    return colour * (1 - contrast) if colour.max() > 0.3 else colour + contrast * 0.6


def surface(colour: Array, kind: str, period: float, lean: float, contrast: float, rng: np.random.Generator) -> Array:
    """A whole picture of one textured colour. Returns [SIDE, SIDE, 3]."""
    if kind == "plain":
        return np.broadcast_to(colour, (SIDE, SIDE, 3))
    amount = texture(kind, period, lean, rng)[..., None]  # [SIDE, SIDE, 1]
    return colour + amount * (second_shade(colour, contrast) - colour)


def shade(name: str, jitter: float, rng: np.random.Generator) -> Array:
    """A colour by name, never quite the same twice. Returns [3] in [0, 1]."""
    return np.clip(np.array(COLOURS[name]) + rng.normal(0, jitter, 3), 0, 1).astype(np.float32)


def _backgrounds(colour: str) -> list[str]:
    """The colours against which an object of this colour can be seen."""
    here = np.array(COLOURS[colour])
    return [name for name, there in COLOURS.items() if float(np.linalg.norm(here - np.array(there))) > 0.45]


BACKGROUNDS: dict[str, list[str]] = {colour: _backgrounds(colour) for colour in COLOURS}
