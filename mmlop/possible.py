"""What params.yaml cannot ask for although each value may be had: settings that contradict one another, or that would be
ignored without a word. Every refusal is a ValueError with a sentence that names the keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmlop import methods
from mmlop.errors import listing
from mmlop.settings import FACTORED, SECTIONS, Settings

if TYPE_CHECKING:
    from mmlop.config import Params


def require_possible(params: Params) -> None:
    """Raise ValueError for the first thing that cannot be."""
    _require_known_names(params)
    _require_used(params, params.method)
    for profile_name, profile in params.profiles.items():
        for method, settings in profile.methods.items():
            _require_used(settings, method, f"profiles.{profile_name}.methods.{method}.")
    if methods.get(params.method).kind == "prompts":
        _require_form(params)
    if methods.get(params.method).trains:
        _require_trainable(params)
    _require_single_values(params)
    _require_listed(params)


def _require_known_names(params: Params) -> None:
    if params.backbone not in params.profiles:
        raise ValueError(f"backbone is '{params.backbone}', but profiles holds {listing(params.profiles, params.backbone)}")
    of_methods = (name for profile in params.profiles.values() for name in profile.methods)
    for name in (params.method, *of_methods):
        if name not in methods.METHODS:
            raise ValueError(f"there is no method '{name}': choose one of {listing(methods.METHODS, name)}")
    for name in params.sources:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise ValueError(f"sources has '{name}': a data set's name is small letters, digits, - and _ only")
    for name in params.grids:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise ValueError(f"grids has '{name}': a grid's name is small letters, digits, - and _ only")


def _require_used(settings: Settings, method: str, where: str = "") -> None:
    """Refuse what the method would ignore in the settings that are given for it alone (``where``), or at the top."""
    for section, values in settings.model_dump(include=set(SECTIONS)).items():
        for key, value in values.items():
            if value is not None and not methods.get(method).uses(section, key):
                lacking = "has no use for it" if section == "train" else f"has no {section}"
                instead = "take it out" if where else "take it out, or choose another method"
                raise ValueError(f"{where}{section}.{key} is given, but method {method} {lacking}: {instead}")


def _require_form(params: Params) -> None:
    """That form, encoders, rank and number of prompts go together."""
    prompts = params.effective["prompts"]
    form, encoders, rank, tokens = (prompts[key] for key in ("form", "encoders", "rank", "tokens"))
    if params.prompts.rank and form not in FACTORED:
        raise ValueError(
            f"prompts.rank is given, but prompts.form is {form}: take it out, or choose form low_rank or shared"
        )
    if form in FACTORED and not rank:
        raise ValueError(f"prompts.form is {form}, which needs a rank: give prompts.rank")
    if form in ("shared", "coupled") and encoders != "both":
        raise ValueError(
            f"prompts.form is {form}, which ties the two encoders together, but prompts.encoders is {encoders}: choose "
            f"both, or form full or low_rank"
        )
    if rank and rank > tokens:
        raise ValueError(
            f"prompts.rank is {rank}, but {tokens} prompt tokens have rank 1 to {tokens}: lower prompts.rank or raise "
            f"prompts.tokens"
        )


def _require_trainable(params: Params) -> None:
    """That the optimiser has a use for what it is given, and that something is left to train after the warm-up."""
    train, protocols = params.effective["train"], params.protocols
    if params.train.momentum is not None and train["optimiser"] == "adamw":
        raise ValueError(
            "train.momentum is given, but train.optimiser is adamw, which has no use for it: take it out, or choose sgd"
        )
    for epochs in (train["epochs"], protocols.few_shot.epochs, protocols.transfer.epochs):
        if epochs is not None and train["warmup_epochs"] >= epochs:
            raise ValueError(f"train.warmup_epochs is {train['warmup_epochs']}, which leaves nothing of {epochs} epochs")


def _require_single_values(params: Params) -> None:
    transfer = params.protocols.transfer
    lists: dict[str, tuple[object, ...]] = {
        "datasets": params.datasets,
        "test_sets": params.test_sets,
        "fewshot.seeds": params.fewshot.seeds,
        "protocols.few_shot.shots": params.protocols.few_shot.shots,
        "protocols.transfer.sources": transfer.sources,
        "protocols.transfer.targets": transfer.targets,
    }
    for name, values in lists.items():
        if len(set(values)) < len(values):
            raise ValueError(f"{name} lists a value twice: {', '.join(map(str, values))}")


def _require_listed(params: Params) -> None:
    """That data sets named elsewhere are among those that are trained or tested on."""
    transfer = params.protocols.transfer
    if both := [name for name in params.test_sets if name in params.datasets]:
        raise ValueError(
            f"'{both[0]}' is under datasets and under test_sets: what is trained on belongs under datasets alone"
        )
    for source in transfer.sources:
        if source not in params.datasets:
            raise ValueError(f"protocols.transfer.sources has '{source}', which is not among datasets: add it there")
    for target in transfer.targets:
        if target not in params.datasets + params.test_sets:
            raise ValueError(
                f"protocols.transfer.targets has '{target}', which is neither among datasets nor among test_sets: add "
                f"it to test_sets (tested on only) or datasets (trained on too)"
            )
    for name in params.retrain.schedules:
        if name not in params.datasets:
            raise ValueError(f"retrain.schedules has '{name}', which is not among datasets: add it there")
    if bool(transfer.sources) != bool(transfer.targets):
        raise ValueError("protocols.transfer needs both sources and targets, or neither")
