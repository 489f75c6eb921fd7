"""params.yaml as a model: an unknown key or an impossible value is one sentence that names it."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mmlop import methods
from mmlop.errors import MmlopError, listing
from mmlop.grids.section import Grid
from mmlop.possible import require_possible
from mmlop.schedules import Retrain, Schedule, interval
from mmlop.settings import COMMON, FACTORED, Averaging, Count, Positive, Rate, Section, Settings, Values, Weight, merged


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


class Drift(Section):
    """Pictures that a service was sent, compared with validation pictures (mmlop/drift.py)."""

    log: Path | None = None  # the folder that `mmlop serve --log` writes
    since: str = "7d"  # how far back
    level: Annotated[float, Field(gt=0, lt=1)] = 0.01  # of all tests together
    effect: Weight = 0.3  # below which a difference is none, however significant
    pictures: Positive = 30  # logged and reference pictures, each, below which nothing is told
    shares: bool = False  # whether another mix of predicted classes is drift too
    retrain: bool = False  # whether drift starts a retraining
    schedule: Schedule = None  # of every data set; None: only by hand

    @field_validator("since")
    @classmethod
    def _span(cls, since: str) -> str:
        if interval(since) is None:
            raise ValueError("it needs a number with s, m, h or d, for instance 7d")
        return since


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
    drift: Drift = Drift()
    grids: dict[str, Grid] = Field(default_factory=dict)
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _possible(self) -> Params:
        require_possible(self)
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
    given = problem["input"]
    if problem["type"] == "value_error" and isinstance(given, dict) and given.keys() <= set(_fields_at(path.split("."))):
        return f"{path}: {message}."  # a section whose keys don't go together
    return f"{path} is {given!r}: {message[0].lower()}{message[1:]}."


def _fields_at(parents: list[str]) -> list[str]:
    """The keys of the section that ``parents`` leads to."""
    named: dict[str, type[BaseModel]] = {
        "profiles": Profile,
        "sources": Source,
        "methods": Settings,
        "grids": Grid,
        "averaging": Averaging,
    }
    model: type[BaseModel] = Params
    for key in parents:
        if key in named:  # a name may follow, which changes nothing
            model = named[key]
        elif key in model.model_fields and isinstance(model.model_fields[key].annotation, type):
            model = model.model_fields[key].annotation  # type: ignore[assignment]
    return list(model.model_fields)
