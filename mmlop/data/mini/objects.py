"""The 88 things of the mini world, each a grey-scale mask drawn once and then stamped at any size and angle.

Shapes are polygons, so that a data set can also draw their outlines; symbols, letters and digits are glyphs of the fonts
that matplotlib ships, so that no font has to be installed.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Points = NDArray[np.float64]

SIDE = 48  # pixels, of every picture in the mini world
MASK_SIDE = 128  # pixels; masks are reduced from this to roughly the size at which they are stamped

SYMBOLS: dict[str, str] = {
    "king": "\u265a",
    "queen": "\u265b",
    "rook": "\u265c",
    "bishop": "\u265d",
    "knight": "\u265e",
    "pawn": "\u265f",
    "anchor": "\u2693",
    "umbrella": "\u2602",
    "scissors": "\u2702",
    "telephone": "\u260e",
    "airplane": "\u2708",
    "envelope": "\u2709",
    "sun": "\u2600",
    "dice": "\u2684",
    "skull": "\u2620",
    "smile": "\u263a",
    "note": "\u266b",
    "spade": "\u2660",
    "club": "\u2663",
    "flag": "\u2691",
    "sword": "\u2694",
    "balance": "\u2696",
    "pencil": "\u270f",
    "snowflake": "\u2744",
    "atom": "\u269b",
    "peace": "\u262e",
    "keyboard": "\u2328",
    "cat": "\U0001f431",
}
LETTERS: dict[str, str] = {f"letter {char.lower()}": char for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS: dict[str, str] = {f"digit {word}": str(value) for value, word in enumerate(_NUMERALS)}
GLYPHS: dict[str, str] = {**SYMBOLS, **LETTERS, **DIGITS}

# Letters and digits are pretrained in these upright faces; the slanted ones are kept for the few-shot data sets.
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "cmss10.ttf",
)
HELD_OUT_FONTS = (
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "STIXGeneralBolIta.ttf",
    "cmti10.ttf",
)


def _ring(sides: int, radius: float = 1.0, turn: float = 0.0, squash: float = 1.0) -> Points:
    """A regular polygon with its first corner up; many sides make it a circle."""
    angle = 2 * math.pi * np.arange(sides) / sides + turn
    return np.stack([radius * np.sin(angle), -radius * squash * np.cos(angle)], axis=1)  # [sides, 2]


def _spiked(tips: int, inner: float, repeat: int = 1) -> Points:
    """A star; `repeat` flattens its tips into the teeth of a gear."""
    radius = np.tile(np.repeat([1.0, inner], repeat), tips)
    angle = 2 * math.pi * np.arange(len(radius)) / len(radius)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _curve(x: Points, y: Points) -> Points:
    return np.stack([x, y], axis=1)


def _make_shapes() -> dict[str, tuple[Points, ...]]:
    """Outlines in [-1, 1] with y down. The first ring of a shape is its outside, any other ring a hole."""
    turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    half = np.linspace(0, math.pi, 24)
    petals = 0.68 + 0.32 * np.cos(5 * turn)
    puffs = 0.8 + 0.2 * np.abs(np.sin(2.5 * turn))
    heart = _curve(np.sin(turn) ** 3, -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn)) / 16)
    drop = _curve(0.85 * np.sin(turn) * np.sin(turn / 2) ** 1.5, -np.cos(turn))
    far, near = np.linspace(0.981, 2 * math.pi - 0.981, 36), np.linspace(4.872, 1.411, 30)
    moon = np.concatenate(
        [
            _curve(0.95 * np.cos(far), 0.95 * np.sin(far)),
            _curve(0.4 + 0.8 * np.cos(near), 0.8 * np.sin(near)),
        ]
    )
    corners: dict[str, list[tuple[float, float]]] = {
        "triangle": [(0, -0.9), (1, 0.8), (-1, 0.8)],
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "rectangle": [(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)],
        "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
        "trapezoid": [(-0.5, -0.6), (0.5, -0.6), (1, 0.6), (-1, 0.6)],
        "hourglass": [(-0.75, -1), (0.75, -1), (0.1, 0), (0.75, 1), (-0.75, 1), (-0.1, 0)],
        "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
                  (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
        "arrow": [(-1, -0.25), (0.1, -0.25), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.25), (-1, 0.25)],
        "lightning": [(0.2, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.05, -0.25), (0.55, -1)],
        "house": [(0, -1), (1, -0.1), (0.75, -0.1), (0.75, 0.9), (-0.75, 0.9), (-0.75, -0.1), (-1, -0.1)],
        "tree": [(0, -1), (0.55, -0.25), (0.3, -0.25), (0.85, 0.5), (0.2, 0.5), (0.2, 1),
                 (-0.2, 1), (-0.2, 0.5), (-0.85, 0.5), (-0.3, -0.25), (-0.55, -0.25)],
        "stairs": [(-1, 0.9), (-1, 0.3), (-0.35, 0.3), (-0.35, -0.3), (0.3, -0.3), (0.3, -0.9), (1, -0.9), (1, 0.9)],
    }  # fmt: skip
    return {
        **{name: (np.array(points, dtype=np.float64),) for name, points in corners.items()},
        "circle": (_ring(48, 0.95),),
        "oval": (_ring(48, 1.0, squash=0.55),),
        "hexagon": (_ring(6, turn=math.pi / 6),),
        "star": (_spiked(5, 0.42),),
        "gear": (_spiked(8, 0.7, repeat=2), _ring(24, 0.3)),
        "ring": (_ring(48, 0.95), _ring(48, 0.55)),
        "crescent": (moon,),
        "semicircle": (_curve(np.cos(half), 0.45 - np.sin(half)),),
        "heart": (heart,),
        "drop": (drop,),
        "flower": (_curve(petals * np.sin(turn), -petals * np.cos(turn)), _ring(24, 0.2)),
        "cloud": (_curve(puffs * np.sin(turn), -0.62 * puffs * np.cos(turn)),),
    }


SHAPES = _make_shapes()

OBJECTS: tuple[str, ...] = (*SHAPES, *GLYPHS)


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A face from matplotlib's own folder of fonts, `size` in pixels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _shape_mask(name: str) -> Image.Image:
    mask = Image.new("L", (MASK_SIDE * 2, MASK_SIDE * 2))
    draw = ImageDraw.Draw(mask)
    for index, ring in enumerate(SHAPES[name]):
        draw.polygon([(MASK_SIDE * (x + 1), MASK_SIDE * (y + 1)) for x, y in ring], fill=0 if index else 255)
    return mask.reduce(2)


def _glyph_mask(name: str, face: str) -> Image.Image:
    """The glyph cropped to its ink and fitted into the square, keeping its proportions."""
    drawn = Image.new("L", (320, 320))
    ImageDraw.Draw(drawn).text((160, 160), GLYPHS[name], font=font(face, 180), fill=255, anchor="mm")
    ink = drawn.crop(drawn.getbbox())
    ink = ink.resize([max(1, round(side * MASK_SIDE / max(ink.size))) for side in ink.size], Image.Resampling.LANCZOS)
    mask = Image.new("L", (MASK_SIDE, MASK_SIDE))
    mask.paste(ink, ((MASK_SIDE - ink.width) // 2, (MASK_SIDE - ink.height) // 2))
    return mask


@cache
def masks(name: str, face: str = FONTS[0]) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The object white on black at 128, 64 and 32 pixels a side; `face` matters to letters and digits only.

    Three sizes because stamping a large mask small would alias.
    """
    full = _shape_mask(name) if name in SHAPES else _glyph_mask(name, FONTS[0] if name in SYMBOLS else face)
    return full, full.reduce(2), full.reduce(4)


def stamp(name: str, face: str, centre: tuple[float, float], size: float, angle: float) -> Image.Image:
    """A SIDE x SIDE mask with the object at `centre` (pixels), `size` pixels across, turned by `angle` (radians)."""
    full, half, quarter = masks(name, face)
    mask = quarter if size <= 24 else half if size <= 44 else full
    scale = mask.width / size
    cos, sin, middle = scale * math.cos(angle), scale * math.sin(angle), mask.width / 2
    x, y = centre
    # PIL wants the map from output to input pixels.
    matrix = (cos, sin, middle - cos * x - sin * y, -sin, cos, middle + sin * x - cos * y)
    return mask.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
