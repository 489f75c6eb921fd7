"""params.yaml as a model: an unknown key or an impossible value is one sentence that names it."""

from __future__ import annotations

import os
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mmlop import methods
from mmlop.errors import MmlopError, listing
from mmlop.grid import Grid
from mmlop.schedules import Retrain
from mmlop.settings import COMMON, Count, Positive, Rate, Section, Settings, Values, merged

FACTORED = ("low_rank", "shared")  # forms of prompts that have a rank


class PerClass(Section):
    train: Positive = 32
    val: Count = 16
    test: Positive = 40


class Data(Section):
    seed: int = 0  # of the rendered data sets
    per_class: PerClass = PerClass()  # of the rendered data sets
    own_split: tuple[str, ...] = ()  # public data sets for which a split other than the published one will do


class Source(Section):
    """Your own pictures: a folder with one folder per class, or a table of paths, labels and perhaps parts."""

    folder: Path | None = None
    table: Path | None = None  # .csv or .jsonl
    template: str = "a photo of a {}."
    licence: str = "your own"
    skip_bad: bool = False  # leave unusable pictures out, and say so in the manifest, instead of stopping

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.folder is None) == (self.table is None):
            raise ValueError("it needs either `folder` (a folder per class) or `table` (a CSV or JSONL file), and not both")
        return self

    @field_validator("template")
    @classmethod
    def _one_gap(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("it needs exactly one {} for the class name")
        return template


class FewShot(Section):
    shots: Positive = 16  # training pictures per class
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 3)


class FewShotCurve(Section):
    """Accuracy against the number of shots: an adapter on all classes for each."""

    shots: tuple[Positive, ...] = ()  # none: not measured; the papers: 1, 2, 4, 8, 16
    epochs: Positive | None = None


class Transfer(Section):
    """Adapters of `sources`, on all their classes, tested on `targets`, which they never saw."""

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    depth: Positive | None = None
    epochs: Positive | None = None


class Protocols(Section):
    base_to_novel: bool = True
    few_shot: FewShotCurve = FewShotCurve()
    transfer: Transfer = Transfer()


class Champion(Section):
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    pictures: Positive = 30


class Run(Section):
    retries: Count = 1
    runner: Literal["threads", "processes", "dask"] = "threads"
    concurrency: Positive = 1
    dask: str | None = None  # address of the scheduler of a Dask cluster
    resources: dict[str, Rate] = Field(default_factory=dict)  # what a training takes of a Dask worker
    system_metrics: bool = False

    @model_validator(mode="after")
    def _cluster(self) -> Run:
        if (self.runner == "dask") != (self.dask is not None):
            raise ValueError("runner: dask and the address of a scheduler (dask: tcp://HOST:8786) go together")
        return self


class Profile(Settings):
    """What belongs to a backbone. Its settings come after those of params.yaml and before the method's published ones;
    those under `methods` are for one method alone, and come before the profile's own."""

    architecture: str
    weights: str | None = None
    resolution: Positive | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    templates: str = "promptsrc"
    methods: dict[str, Settings] = Field(default_factory=dict)


class Params(Settings):
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    test_sets: tuple[str, ...] = ()
    backbone: str
    method: str = "mmlop"
    device: str = "cpu"
    sources: dict[str, Source] = Field(default_factory=dict)
    data: Data = Data()
    fewshot: FewShot = FewShot()
    protocols: Protocols = Protocols()
    champion: Champion = Champion()
    run: Run = Run()
    retrain: Retrain = Retrain()
    grids: dict[str, Grid] = Field(default_factory=dict)
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _known_names(self) -> Params:
        if self.backbone not in self.profiles:
            raise ValueError(f"backbone is '{self.backbone}', but profiles holds {listing(self.profiles, self.backbone)}")
        of_methods = (name for profile in self.profiles.values() for name in profile.methods)
        for name in (self.method, *of_methods):
            if name not in methods.METHODS:
                raise ValueError(f"there is no method '{name}': choose one of {listing(methods.METHODS, name)}")
        for name in self.sources:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
                raise ValueError(f"sources has '{name}': a data set's name is small letters, digits, - and _ only")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Params:
        prompts, train = self.effective["prompts"], self.effective["train"]
        kind = methods.get(self.method).kind
        for section, owner in (("prompts", "prompts"), ("lora", "lora")):
            given = {key for key, value in getattr(self, section).model_dump().items() if value is not None}
            if given and kind != owner:
                raise ValueError(
                    f"{section}.{min(given)} is given, but method {self.method} has no {section}: take it out, or choose "
                    f"another method"
                )
        form, encoders = prompts["form"], prompts["encoders"]
        if self.prompts.rank and form not in FACTORED:
            raise ValueError(
                f"prompts.rank is given, but prompts.form is {form}: take it out, or choose form low_rank or shared"
            )
        if form in FACTORED and not prompts["rank"]:
            raise ValueError(f"prompts.form is {form}, which needs a rank: give prompts.rank")
        if form in ("shared", "coupled") and encoders != "both":
            raise ValueError(
                f"prompts.form is {form}, which ties the two encoders together, but prompts.encoders is {encoders}: choose "
                f"both, or form full or low_rank"
            )
        if prompts["rank"] and prompts["rank"] > prompts["tokens"]:
            raise ValueError(
                f"prompts.rank is {prompts['rank']}, but {prompts['tokens']} prompt tokens have rank 1 to "
                f"{prompts['tokens']}: lower prompts.rank or raise prompts.tokens"
            )
        for epochs in (train["epochs"], self.protocols.few_shot.epochs, self.protocols.transfer.epochs):
            if epochs is not None and train["warmup_epochs"] >= epochs:
                raise ValueError(
                    f"train.warmup_epochs is {train['warmup_epochs']}, which leaves nothing of {epochs} epochs"
                )
        return self

    @model_validator(mode="after")
    def _lists_agree(self) -> Params:
        transfer, few_shot = self.protocols.transfer, self.protocols.few_shot
        lists: dict[str, tuple[object, ...]] = {
            "datasets": self.datasets,
            "test_sets": self.test_sets,
            "fewshot.seeds": self.fewshot.seeds,
            "protocols.few_shot.shots": few_shot.shots,
            "protocols.transfer.sources": transfer.sources,
            "protocols.transfer.targets": transfer.targets,
        }
        for name, values in lists.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice: {', '.join(map(str, values))}")
        if both := [name for name in self.test_sets if name in self.datasets]:
            raise ValueError(
                f"'{both[0]}' is under datasets and under test_sets: what is trained on belongs under datasets alone"
            )
        for source in transfer.sources:
            if source not in self.datasets:
                raise ValueError(f"protocols.transfer.sources has '{source}', which is not among datasets: add it there")
        for target in transfer.targets:
            if target not in self.datasets + self.test_sets:
                raise ValueError(
                    f"protocols.transfer.targets has '{target}', which is neither among datasets nor among test_sets: add "
                    f"it to test_sets (tested on only) or datasets (trained on too)"
                )
        for name in self.retrain.schedules:
            if name not in self.datasets:
                raise ValueError(f"retrain.schedules has '{name}', which is not among datasets: add it there")
        if bool(transfer.sources) != bool(transfer.targets):
            raise ValueError("protocols.transfer needs both sources and targets, or neither")
        return self

    @property
    def profile(self) -> Profile:
        return self.profiles[self.backbone]

    @cached_property
    def effective(self) -> Values:
        """The settings of the chosen method on the chosen backbone, by section and key."""
        for_method = self.profile.methods.get(self.method, Settings())
        found = merged(self, for_method, self.profile, methods.get(self.method).settings, COMMON)
        if found["prompts"]["form"] not in FACTORED:
            found["prompts"]["rank"] = None
        return found

    @property
    def threads(self) -> int | None:
        threads: int | None = self.effective["train"]["threads"]
        return threads

    @property
    def parallel_seeds(self) -> bool:
        return bool(self.effective["train"]["parallel_seeds"])

    def resolved(self) -> dict[str, Any]:
        """What decides an adapter, with every layer's values filled in: for records, not for reading back."""
        profile = self.profile
        kind = methods.get(self.method).kind
        used = {section: values for section, values in self.effective.items() if section in ("train", "loss", kind)}
        return {
            "method": self.method,
            "backbone": {
                "profile": self.backbone,
                "architecture": profile.architecture,
                "weights": profile.weights,
                "resolution": profile.resolution,
                "precision": profile.precision,
            },
            "fewshot": {"shots": self.fewshot.shots, "seeds": list(self.fewshot.seeds)},
            "templates": profile.templates,
            **used,
        }


def load(file: Path | None = None) -> Params:
    """Read and validate params.yaml (of the project around the current folder for None).

    Raises MmlopError with one sentence: the key, the value, and what is allowed.
    """
    file = file or root() / "params.yaml"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmlopError(f"{file} does not exist: run mmlop inside a project with a params.yaml.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MmlopError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise MmlopError(f"{file} holds no keys: it should start with `datasets:` and `backbone:`.")
    return parse(values, str(file))


def parse(values: dict[str, Any], where: str) -> Params:
    """Validate the values of a params.yaml. Raises MmlopError, which names ``where`` they come from."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise MmlopError(f"{where}: {_sentence(error)}") from error


def root() -> Path:
    """The project: the nearest folder upwards with a params.yaml, else the current one.

    Not DVC_ROOT: where DVC runs an experiment in a copy of the project, that names the original.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


def home() -> Path:
    """Where stores belong that outlive an experiment. DVC sets DVC_ROOT to the project even where it runs a stage in a
    temporary copy (`dvc exp run --temp`, `dvc queue`), which is deleted afterwards: a store in there would go with it."""
    return Path(os.environ.get("DVC_ROOT") or root()).resolve()


def cache() -> Path:
    """Where is kept what needs computing only once: MMLOP_CACHE, or `mmlop` in XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("MMLOP_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmlop"


def this_python() -> dict[str, str]:
    """PATH with this interpreter first, for `dvc`, whose stages say `python`: the environment may not be activated."""
    return {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


def _sentence(error: ValidationError) -> str:
    """The first problem, as: key, value, what is allowed."""
    problem = error.errors()[0]
    path = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        *parents, key = map(str, problem["loc"])
        allowed = _fields_at(parents)
        where = f" in {'.'.join(parents)}" if parents else ""
        return f"there is no key '{key}'{where}; known keys: {listing(allowed, key)}."
    if problem["type"] == "missing":
        return f"the key '{path}' is missing."
    message = problem["msg"].removeprefix("Value error, ")
    if not path:
        return f"{message}."
    return f"{path} is {problem['input']!r}: {message[0].lower()}{message[1:]}."


def _fields_at(parents: list[str]) -> list[str]:
    """The keys of the section that ``parents`` leads to."""
    named: dict[str, type[BaseModel]] = {"profiles": Profile, "sources": Source, "methods": Settings, "grids": Grid}
    model: type[BaseModel] = Params
    for key in parents:
        if key in named:  # a name follows, which changes nothing
            model = named[key]
        elif key in model.model_fields and isinstance(model.model_fields[key].annotation, type):
            model = model.model_fields[key].annotation  # type: ignore[assignment]
    return list(model.model_fields)
