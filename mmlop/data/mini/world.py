"""The mini world: 48 x 48 pictures with captions, each drawn from nothing but a seed.

A picture has an object (or is filled by a texture alone), a colour, a texture, a background, a size, a count and a
position; its caption names a random subset of them, as captions do. Zero-shot classes are told apart by the same words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from mmlop.data.mini.objects import FONTS, OBJECTS, SIDE, stamp
from mmlop.data.mini.surfaces import BACKGROUNDS, COLOURS, TEXTURES, Array, shade, surface

# All "a", never "an": a class name is put into a template unseen, and captions should read the same way.
TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "a sign with a {}.",
    "this is a {}.",
    "there is a {}.",
    "a {}.",
    "{}.",
)
NOUNS = ("object", "texture")  # stand for what a caption leaves unnamed
SIZES = ("small", "large")
COUNTS = ("two", "three", "four")
POSITIONS = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")


@dataclass(frozen=True)
class Picture:
    """What was drawn and how it is described. Labels index OBJECTS, COLOURS and TEXTURES; object -1 is texture alone."""

    pixels: NDArray[np.uint8]  # [SIDE, SIDE, 3]
    caption: str
    object: int
    colour: int
    texture: int


@dataclass
class Scene:
    """Every decision about one picture, made before anything is drawn."""

    object: str | None
    colour: str
    texture: str
    background: str
    background_texture: str
    count: int = 1
    size: float = 34.0  # pixels
    centres: tuple[tuple[float, float], ...] = ((SIDE / 2, SIDE / 2),)
    angle: float = 0.0  # radians
    face: str = FONTS[0]
    outlined: bool = False
    brightness: float = 1.0
    noise: float = 0.0  # standard deviation, in units of full intensity
    jitter: float = 0.03  # the same, of a colour's three components
    side: float = 6.0  # pixels, one period of the texture
    lean: float = 0.0  # radians, of the texture


def _pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _place(scene: Scene, hardness: float, rng: np.random.Generator) -> None:
    """Chooses count, size and places: one object almost anywhere, several in the cells of a 2 x 2 grid."""
    if rng.random() < 0.2 * hardness:
        scene.count = int(rng.integers(2, 5))
        scene.size = float(rng.uniform(15, 21))
        cells = rng.permutation(4)[: scene.count]
        jitter = rng.uniform(-2.5, 2.5, (scene.count, 2))
        scene.centres = tuple(
            (12.5 + 23 * (int(cell) % 2) + float(dx), 12.5 + 23 * (int(cell) // 2) + float(dy))
            for cell, (dx, dy) in zip(cells, jitter, strict=True)
        )
        return
    scene.size = float(rng.uniform(36 - 20 * hardness, 40 + 4 * hardness))
    slack = max(0.0, (SIDE - scene.size) / 2) * hardness
    x, y = rng.uniform(-slack, slack, 2)
    scene.centres = ((SIDE / 2 + float(x), SIDE / 2 + float(y)),)


def imagine(rng: np.random.Generator, hardness: float) -> Scene:
    """Draws a scene. `hardness` in [0, 1] widens every nuisance: 0 is one large plain object in the middle."""
    name = None if rng.random() < 0.1 else _pick(rng, OBJECTS)
    colour = _pick(rng, tuple(COLOURS))
    scene = Scene(
        object=name,
        colour=colour,
        texture=_pick(rng, TEXTURES) if name is None or rng.random() < 0.65 else "plain",
        background=_pick(rng, BACKGROUNDS[colour]),
        background_texture=_pick(rng, TEXTURES) if rng.random() < 0.5 * hardness else "plain",
        angle=float(rng.uniform(-0.35, 0.35)) * hardness,
        face=_pick(rng, FONTS),
        outlined=rng.random() < 0.25 * hardness,
        brightness=1 + hardness * float(rng.uniform(-0.25, 0.15)),
        noise=hardness * float(rng.uniform(0, 0.06)),
        jitter=0.02 + 0.03 * hardness,
        side=float(rng.uniform(5.5, 7.5 + 1.5 * hardness)),
        lean=float(rng.uniform(-0.3, 0.3)) if rng.random() > hardness else float(rng.uniform(0, math.pi)),
    )
    if scene.texture == "brick":
        scene.lean = float(rng.uniform(-0.2, 0.2))
    _place(scene, hardness, rng)
    return scene


def object_mask(scene: Scene) -> Image.Image:
    """Where the scene's objects are, [SIDE, SIDE] in 0..255. A scene without an object has no mask."""
    if scene.object is None:
        raise ValueError("this scene is filled by a texture and has no object")
    layers = [stamp(scene.object, scene.face, centre, scene.size, scene.angle) for centre in scene.centres]
    mask = layers[0]
    for layer in layers[1:]:
        mask = ImageChops.lighter(mask, layer)
    return mask


def paint(scene: Scene, rng: np.random.Generator) -> Array:
    """Draws the scene without noise or lighting. Returns [SIDE, SIDE, 3] in [0, 1]."""
    front = surface(shade(scene.colour, scene.jitter, rng), scene.texture, scene.side, scene.lean, 0.6, rng)
    if scene.object is None:
        return front
    ground_colour = shade(scene.background, scene.jitter, rng)
    period, lean = rng.uniform(6, 10), rng.uniform(0, math.pi)
    ground = surface(ground_colour, scene.background_texture, period, lean, 0.3, rng)
    mask = object_mask(scene)
    if scene.outlined:
        rim = np.asarray(mask.filter(ImageFilter.MaxFilter(3)), dtype=np.float32)[..., None] / 255
        ground = np.asarray(ground * (1 - rim * 0.8), dtype=np.float32)
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255  # [SIDE, SIDE, 1]
    return ground + alpha * (front - ground)


def expose(picture: Array, brightness: float, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lighting, sensor noise and 8 bits."""
    lit = picture * np.float32(brightness)
    if noise > 0:
        lit = lit + np.float32(noise) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.asarray(np.clip(lit, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _where(scene: Scene) -> str | None:
    """The words for the place of a single object, if it has a clear one."""
    if scene.count > 1 or scene.object is None:
        return None
    dx, dy = scene.centres[0][0] - SIDE / 2, scene.centres[0][1] - SIDE / 2
    if max(abs(dx), abs(dy)) < 2.5:
        return "in the middle"
    if max(abs(dx), abs(dy)) < 4 or abs(abs(dx) - abs(dy)) < 2:
        return None
    if abs(dx) > abs(dy):
        return "on the right" if dx > 0 else "on the left"
    return "at the bottom" if dy > 0 else "at the top"


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that names some of what the scene shows; the object most often, the rest about half the time."""
    said = rng.random(7)
    words = []
    if said[0] < 0.5 and scene.object is not None and scene.count == 1 and not 24 <= scene.size <= 34:
        words.append("small" if scene.size < 24 else "large")
    if said[1] < 0.6:
        words.append(scene.colour)
    if said[2] < (0.2 if scene.texture == "plain" else 0.6) or (scene.object is None and len(words) == 0):
        words.append(scene.texture)
    if scene.object is None:
        words.append("texture")
    else:
        words.append(scene.object if said[3] < 0.9 or len(words) == 0 else "object")
    body = " ".join(words)
    if scene.count > 1 and said[4] < 0.6:
        body += f", {COUNTS[scene.count - 2]} of them"
    if scene.object is not None and said[5] < 0.35:
        kind = "" if scene.background_texture == "plain" else f"{scene.background_texture} "
        body += f" on a {scene.background} {kind}background"
    where = _where(scene)
    if where is not None and said[6] < 0.3:
        body += f" {where}"
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(body)


def draw(seed: int, index: int, hardness: float = 1.0) -> Picture:
    """The picture number `index` of the world `seed`: always the same, whatever was drawn before."""
    rng = np.random.default_rng([seed, index])
    scene = imagine(rng, hardness)
    caption = describe(scene, rng)
    pixels = expose(paint(scene, rng), scene.brightness, scene.noise, rng)
    return Picture(
        pixels=pixels,
        caption=caption,
        object=-1 if scene.object is None else OBJECTS.index(scene.object),
        colour=list(COLOURS).index(scene.colour),
        texture=TEXTURES.index(scene.texture),
    )


@dataclass(frozen=True)
class Batch:
    """Consecutive pictures of the world; the fields of Picture, stacked."""

    pixels: NDArray[np.uint8]  # [B, SIDE, SIDE, 3]
    captions: list[str]
    labels: NDArray[np.int64]  # [B, 3]: object, colour, texture


def draw_batch(seed: int, first: int, count: int, hardness: float = 1.0) -> Batch:
    """Pictures `first` to `first + count - 1`; light to import, so that a worker process can draw while another learns."""
    pictures = [draw(seed, index, hardness) for index in range(first, first + count)]
    return Batch(
        pixels=np.stack([picture.pixels for picture in pictures]),
        captions=[picture.caption for picture in pictures],
        labels=np.array([(picture.object, picture.colour, picture.texture) for picture in pictures], dtype=np.int64),
    )


def phrases() -> list[str]:
    """Texts that together hold every word of every caption: what mini-CLIP's vocabulary is made of."""
    names = [*OBJECTS, *NOUNS, *COLOURS, *TEXTURES, *SIZES]
    bodies = [f"{first} {noun}" for first, noun in product((*COLOURS, *TEXTURES), NOUNS)]
    tails = [f"object, {count} of them on a red plain background {place}" for count, place in product(COUNTS, POSITIONS)]
    return [template.format(body) for template in TEMPLATES for body in (*names, *bodies, *tails)]
