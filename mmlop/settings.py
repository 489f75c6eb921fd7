"""The settings that make a method: what is learned, by which loss, how it is trained.

The same sections, with the same keys, are written at the top of params.yaml, in a profile, in a profile's `methods`, and in
the record of each method (mmlop/methods.py). None leaves a value to the next layer; `merged` puts the layers together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Values = dict[str, dict[str, Any]]  # by section and key

FACTORED = ("low_rank", "shared")  # forms of prompts that have a rank


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompts(Section):
    """See mmlop/prompts.py."""

    encoders: Literal["both", "vision", "text"] | None = None
    form: Literal["full", "low_rank", "shared", "coupled"] | None = None
    tokens: Positive | None = None  # n
    rank: Positive | None = None  # r, of forms low_rank and shared
    depth: Positive | None = None  # J


class Lora(Section):
    """See mmlop/lora.py."""

    rank: Positive | None = None
    alpha: Rate | None = None  # the changes are multiplied by alpha / sqrt(rank)


class Loss(Section):
    text: Weight | None = None  # lambda_t
    image: Weight | None = None  # lambda_v
    logits: Weight | None = None  # lambda_l
    distance: Literal["l1", "cosine"] | None = None  # of texts
    anchor: Literal["list", "template"] | None = None  # frozen text: over the profile's templates, or the data set's own
    drift_correction: bool | None = None


class Averaging(Section):
    """PromptSRC's Gaussian averaging of what is learned, over epochs; both in shares of the number of epochs."""

    mean: Share
    std: Rate


class Train(Section):
    epochs: Positive | None = None
    steps_per_shot: Positive | None = None  # in place of epochs: as many steps as this times the shots
    learning_rate: Rate | None = None
    optimiser: Literal["sgd", "adamw"] | None = None
    batch_size: Positive | None = None
    warmup_epochs: Count | None = None
    warmup_rate: Rate | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    weight_decay: Weight | None = None
    averaging: Averaging | Literal[False] | None = None
    crop: Share | None = None  # least share of the picture's area in a training view
    flip: bool | None = None  # mirror half of the views
    views: Count | None = None  # of every picture, drawn once for all epochs; 0: fresh ones in every epoch
    threads: Positive | None = None
    parallel_seeds: bool | None = None  # all seeds of a training in the same forward passes
    compile: bool | None = None  # the forward pass, by torch.compile

    @field_validator("averaging", mode="before")
    @classmethod
    def _shares_or_none(cls, given: Any) -> Any:
        """Said here, since of a wrong value pydantic says what each of the types would want."""
        if isinstance(given, dict):
            return Averaging.model_validate(given)
        if given is None or given is False or isinstance(given, Averaging):
            return given
        raise ValueError("it needs shares of the epochs, {mean: 0.75, std: 0.05} for instance, or false")

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.epochs and self.steps_per_shot:
            raise ValueError("epochs and steps_per_shot both say how long training is: give one of them")
        return self


class Settings(Section):
    prompts: Prompts = Prompts()
    lora: Lora = Lora()
    loss: Loss = Loss()
    train: Train = Train()


SECTIONS = tuple(Settings.model_fields)

COMMON = Settings(
    loss=Loss(text=0, image=0, logits=0, distance="l1", anchor="list", drift_correction=False),
    train=Train(
        optimiser="sgd",
        batch_size=4,
        warmup_epochs=1,
        warmup_rate=1e-5,
        momentum=0.9,
        weight_decay=5e-4,
        averaging=False,
        crop=0.08,
        flip=True,
        views=0,
        parallel_seeds=False,
        compile=False,
    ),
)


def merged(*layers: Settings) -> Values:
    """Every value from the first layer that has one; None where none has. `epochs` and `steps_per_shot` stand for one
    another: the layer that gives either decides both."""
    found: Values = {section: dict.fromkeys(type(getattr(COMMON, section)).model_fields) for section in SECTIONS}
    for layer in layers:
        length_known = found["train"]["epochs"] or found["train"]["steps_per_shot"]
        for section, values in found.items():
            for key, value in getattr(layer, section).model_dump().items():
                if value is not None and values[key] is None and not (length_known and key in ("epochs", "steps_per_shot")):
                    values[key] = value
    return found
