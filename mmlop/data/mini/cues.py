"""Three data sets close to the world in which base classes teach what does not carry over to the novel ones.

The other few-shot sets share one shift between all of their classes, so what is learned from some helps the others. Here
the frozen CLIP knows the domain, and the base classes teach a habit (`ground`), what is peculiar to themselves (`look`)
or one property at the expense of another (`trait`).
"""

from __future__ import annotations

import math

import numpy as np

from mmlop.data.mini import world
from mmlop.data.mini.looks import LOOKS
from mmlop.data.mini.objects import SHAPES, SIDE
from mmlop.data.mini.painters import other
from mmlop.data.mini.surfaces import COLOURS, TEXTURES, Array

HABIT = 0.8  # the share of training and validation pictures that show a class on its own ground
# Each colour twice, first with one texture and then with another: within a half of the classes the colour alone tells.
GROUNDS = tuple(
    (colour, TEXTURES[(place + shift) % len(TEXTURES)]) for shift in (0, 5) for place, colour in enumerate(COLOURS)
)
# Colours that stay colours whatever the light, and textures that are not the plain one in which colours are shown.
TRAIT_COLOURS = tuple(name for name in COLOURS if name not in ("black", "white", "grey"))
TRAIT_TEXTURES = tuple(name for name in TEXTURES if name != "plain")


def ground(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """Something small on one of 24 grounds: in training and validation pictures mostly on the class's own.

    In test pictures, every ground is as likely with every class. Over all classes, all parts show each ground as often.
    """
    scene = world.imagine(rng, 1.0)
    own = part != "test" and rng.random() < HABIT
    place = label if own else int(rng.integers(len(GROUNDS)))
    scene.background, scene.background_texture = GROUNDS[place]
    scene.object, scene.colour = name, other(scene.background, rng)
    _put(scene, rng.uniform(11, 17), 10, rng)
    return world.paint(scene, rng)


def look(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """A scene of the world in the look of its class, in all parts alike."""
    scene = world.imagine(rng, 0.4)
    scene.object = name
    return LOOKS[label](world.paint(scene, rng), rng)


def trait(name: str, label: int, part: str, rng: np.random.Generator) -> Array:
    """What `trait_scene` imagines, by the light of a coloured lamp."""
    scene = trait_scene(name, rng)
    lamp = rng.uniform(0.3, 1, 3)
    return np.asarray(world.paint(scene, rng) * (lamp / lamp.max()), dtype=np.float32)


def trait_scene(name: str, rng: np.random.Generator) -> world.Scene:
    """A large shape, any: "striped object" in stripes of any colour, "red object" red and plain."""
    word = name.removesuffix(" object")
    scene = world.imagine(rng, 0.5)
    scene.object = list(SHAPES)[int(rng.integers(len(SHAPES)))]
    scene.texture = "plain" if word in COLOURS else word
    scene.colour = word if word in COLOURS else TRAIT_COLOURS[int(rng.integers(len(TRAIT_COLOURS)))]
    scene.lean = float(rng.uniform(-0.2, 0.2) if word == "brick" else rng.uniform(0, math.pi))
    scene.background, scene.background_texture = other(scene.colour, rng), "plain"
    _put(scene, rng.uniform(34, 44), 3, rng)
    return scene


def _put(scene: world.Scene, size: float, slack: float, rng: np.random.Generator) -> None:
    """One object of this size (pixels), at most `slack` pixels from the middle along both axes."""
    x, y = SIDE / 2 + rng.uniform(-slack, slack, 2)
    scene.count, scene.size, scene.centres = 1, float(size), ((float(x), float(y)),)
