"""A params.yaml that comes to what an adapter has recorded: its settings, with every layer's values filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmlop.settings import SECTIONS
from mmlop.verification import changes

Values = dict[str, Any]


def lacking(recorded: Mapping[str, Any], resolved: Mapping[str, Any]) -> Values:
    """What a params.yaml that comes to ``resolved`` lacks of what is ``recorded``, by dotted name."""
    differing = changes(recorded, {name: value for name, value in resolved.items() if name in recorded})
    return {name: before for name, (before, _) in differing.items() if name != "train.epochs" or _counts_epochs(recorded)}


def restored(values: Mapping[str, Any], recorded: Mapping[str, Any]) -> Values:
    """The values of a params.yaml with those that are recorded in place of its own.

    They are put into the profile, where a setting may be given that the method has no use for.
    """
    backbone = dict(recorded["backbone"])
    name = backbone.pop("profile")
    settings = {section: dict(recorded[section]) for section in SECTIONS if section in recorded}
    if not _counts_epochs(recorded):
        settings["train"].pop("epochs", None)
    return {key: value for key, value in values.items() if key not in SECTIONS} | {
        "method": recorded["method"],
        "backbone": name,
        "fewshot": dict(recorded["fewshot"]),
        "profiles": {**values["profiles"], name: backbone | {"templates": recorded["templates"]} | settings},
    }


def _counts_epochs(recorded: Mapping[str, Any]) -> bool:
    """Whether params.yaml said how many: an adapter records what it took, also where steps were given."""
    train = recorded["train"]
    return train["epochs"] is not None and not train.get("steps_per_shot")
