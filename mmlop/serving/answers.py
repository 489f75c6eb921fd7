"""What the service answers with, as its interface description (`/openapi.json`) says it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mmlop.adapter import Reported


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Label(Said):
    label: str
    score: float = Field(description="Probability over the candidate classes.")


class Labels(Said):
    labels: list[Label] = Field(description="Most probable first.")


class Predicted(Said):
    adapter: str
    version: int | None = Field(description="Its number in the registry; null for a folder.")
    identity: str = Field(description="SHA-256 over the adapter's files: which adapter it was, to the bit.")
    predictions: list[Labels] = Field(description="One for each picture, in their order.")


class Adapters(Said):
    adapters: list[str]


class BackboneName(Said):
    name: str
    weights: str


class Lineage(Said):
    data_hash: str
    split_hash: str
    shots: int
    seed: int


class About(Said):
    name: str
    uri: str
    version: int | None
    identity: str
    method: str
    dataset: str
    classes: list[str]
    open_vocabulary: bool = Field(description="Whether other classes than its own can be scored.")
    backbone: BackboneName
    trainable: int = Field(description="Trained numbers.")
    bytes: int = Field(description="Size of their file.")
    metrics: dict[str, float] = Field(description="Percent.")
    intervals: dict[str, tuple[float, float]] = Field(description="95 % intervals of those that are shares of pictures.")
    report: dict[str, Reported] = Field(description="What the method reached when trained on half of the classes.")
    origin: Lineage
    temperature: float
    card: str = Field(description="HTML elements for people.")


class Health(Said):
    status: str
    adapters: int
    queue: int = Field(description="Pictures that were let in and are not answered yet.")


class Problem(Said):
    detail: str = Field(description="One sentence: what is wrong, and what to do instead.")
