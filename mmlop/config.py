"""params.yaml as a model: an unknown key or an impossible value is one sentence that names it."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmlop.errors import MmlopError, listing

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PerClass(Section):
    train: Positive = 32
    val: Annotated[int, Field(ge=0)] = 16
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
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1, 2, 3)


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


class Prompts(Section):
    tokens: Positive | None = None  # n
    rank: Positive | None = None  # r
    depth: Positive | None = None  # J
    shared: bool = True  # one U for both encoders


class Loss(Section):
    text: Weight = 25.0  # lambda_t
    image: Weight = 10.0  # lambda_v
    logits: Weight = 1.0  # lambda_l
    drift_correction: bool = True


class Train(Section):
    epochs: Positive | None = None
    learning_rate: Rate | None = None
    batch_size: Positive = 4
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    warmup_rate: Rate = 1e-5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Weight = 5e-4
    crop: Share | None = None  # least share of the picture's area in a training view
    flip: bool | None = None  # mirror half of the views
    views: Annotated[int, Field(ge=0)] = 0  # of every picture, drawn once for all epochs; 0: fresh ones in every epoch
    threads: Positive | None = None
    parallel_seeds: bool | None = None  # all seeds of a training in the same forward passes
    compile: bool = False  # the forward pass, by torch.compile


class Champion(Section):
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    pictures: Positive = 30


class Run(Section):
    retries: Annotated[int, Field(ge=0)] = 1
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


def _schedule(text: str | None) -> str | None:
    """A cron line, or a number with s, m, h or d."""
    if text is None or interval(text) is not None:
        return text
    from cronsim import CronSim, CronSimError

    try:
        if len(text.split()) != 5:  # with six, Prefect takes the last for seconds, others the first
            raise CronSimError
        CronSim(text, datetime.now())
    except CronSimError:
        raise ValueError("it needs a cron line ('0 3 * * *') or an interval ('30m', '6h', '1d')") from None
    return text


def interval(schedule: str) -> timedelta | None:
    """The time between runs of a schedule that is no cron line.

    >>> interval("6h"), interval("0 3 * * *")
    (datetime.timedelta(seconds=21600), None)
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})([smhd])", schedule)
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    return timedelta(**{units[found[2]]: int(found[1])}) if found else None


Schedule = Annotated[str | None, AfterValidator(_schedule)]


class Retrain(Section):
    """Scheduled retraining: when, and what is made of trouble."""

    schedule: Schedule = None  # of every data set; None: only by hand
    schedules: dict[str, Schedule] = Field(default_factory=dict)  # of single data sets, instead
    timezone: str = "UTC"
    catch_up: Literal["latest", "all", "none"] = "latest"
    slots: Positive = 1
    restarts: Annotated[int, Field(ge=0)] = 3

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("it needs the name of a timezone, for instance Europe/Berlin") from None
        return timezone

    def of(self, dataset: str) -> str | None:
        """The schedule of a data set."""
        return self.schedules.get(dataset, self.schedule)


class Profile(Section):
    """What belongs to a backbone; each value gives way to the same key under `prompts` and `train`."""

    architecture: str
    weights: str | None = None
    resolution: Positive | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    templates: str = "promptsrc"
    tokens: Positive = 4
    rank: Positive = 1
    depth: Positive = 9
    epochs: Positive = 30
    learning_rate: Rate = 0.0025
    crop: Share = 0.08
    flip: bool = True
    threads: Positive | None = None
    parallel_seeds: bool = False  # all seeds of a training in the same forward passes


class Params(Section):
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    test_sets: tuple[str, ...] = ()
    backbone: str
    device: str = "cpu"
    sources: dict[str, Source] = Field(default_factory=dict)
    data: Data = Data()
    fewshot: FewShot = FewShot()
    protocols: Protocols = Protocols()
    prompts: Prompts = Prompts()
    loss: Loss = Loss()
    train: Train = Train()
    champion: Champion = Champion()
    run: Run = Run()
    retrain: Retrain = Retrain()
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _known_profile(self) -> Params:
        if self.backbone not in self.profiles:
            raise ValueError(f"backbone is '{self.backbone}', but profiles holds {listing(self.profiles, self.backbone)}")
        if self.rank > self.tokens:
            raise ValueError(
                f"prompts.rank is {self.rank}, but {self.tokens} prompt tokens have rank 1 to {self.tokens}: lower "
                f"prompts.rank or raise prompts.tokens"
            )
        for epochs in (self.epochs, self.protocols.few_shot.epochs, self.protocols.transfer.epochs):
            if epochs is not None and self.train.warmup_epochs >= epochs:
                raise ValueError(
                    f"train.warmup_epochs is {self.train.warmup_epochs}, which leaves nothing of {epochs} epochs"
                )
        for name in self.sources:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
                raise ValueError(f"sources has '{name}': a data set's name is small letters, digits, - and _ only")
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

    @property
    def tokens(self) -> int:
        return self.prompts.tokens or self.profile.tokens

    @property
    def rank(self) -> int:
        return self.prompts.rank or self.profile.rank

    @property
    def depth(self) -> int:
        return self.prompts.depth or self.profile.depth

    @property
    def epochs(self) -> int:
        return self.train.epochs or self.profile.epochs

    @property
    def learning_rate(self) -> float:
        return self.train.learning_rate or self.profile.learning_rate

    @property
    def crop(self) -> float:
        return self.train.crop or self.profile.crop

    @property
    def flip(self) -> bool:
        return self.profile.flip if self.train.flip is None else self.train.flip

    @property
    def threads(self) -> int | None:
        return self.train.threads or self.profile.threads

    @property
    def parallel_seeds(self) -> bool:
        return self.profile.parallel_seeds if self.train.parallel_seeds is None else self.train.parallel_seeds

    def resolved(self) -> dict[str, Any]:
        """What decides an adapter, with the profile's values filled in: for records, not for reading back."""
        profile = self.profile
        return {
            "backbone": {
                "profile": self.backbone,
                "architecture": profile.architecture,
                "weights": profile.weights,
                "resolution": profile.resolution,
                "precision": profile.precision,
            },
            "fewshot": {"shots": self.fewshot.shots, "seeds": list(self.fewshot.seeds)},
            "prompts": {"tokens": self.tokens, "rank": self.rank, "depth": self.depth, "shared": self.prompts.shared},
            "loss": self.loss.model_dump() | {"templates": profile.templates},
            "train": self.train.model_dump()
            | {
                "epochs": self.epochs,
                "learning_rate": self.learning_rate,
                "crop": self.crop,
                "flip": self.flip,
                "threads": self.threads,
                "parallel_seeds": self.parallel_seeds,
            },
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
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise MmlopError(f"{file}: {_sentence(error)}") from error


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
    model: type[BaseModel] = Params
    for key in parents:
        if key in ("profiles", "sources"):  # a name follows, which changes nothing
            model = Profile if key == "profiles" else Source
        elif key in model.model_fields and isinstance(model.model_fields[key].annotation, type):
            model = model.model_fields[key].annotation  # type: ignore[assignment]
    return list(model.model_fields)
