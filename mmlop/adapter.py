"""The adapter: a folder of two files and a card, loaded without pickle and strictly.

adapter.safetensors   the factors, nothing else
adapter.json          what they are and what they belong to
README.md, card.html  a card for people
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mmlop import card
from mmlop.backbone import Backbone
from mmlop.errors import MmlopError
from mmlop.files import dump_json, replacing
from mmlop.prompts import Factors
from mmlop.shapes import Shape


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneRecord(Section):
    """Which CLIP the factors belong to. Loading checks the fingerprint; name and weights say where to find it."""

    name: str
    weights: str
    fingerprint: str
    precision: str
    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shown(self) -> str:
        """The name for others: of a local folder not where it lies."""
        return Path(self.name).name if self.weights == "local" else self.name


class Origin(Section):
    """Where the adapter comes from."""

    dataset: str
    source: str = ""  # where the pictures come from, for people
    licence: str = ""  # of the pictures
    data_hash: str  # of the manifest
    split_hash: str
    shots: int
    seed: int
    params: dict[str, Any]  # the resolved configuration
    mode: dict[str, Any]  # device, threads, libraries: with the same mode, training gives the same bits


class Reported(Section):
    """A number of a protocol, over seeds, in percent."""

    mean: float
    std: float
    seeds: int


class AdapterInfo(Section):
    """adapter.json"""

    format: Literal[2] = 2
    method: str
    shape: Annotated[Shape, Field(discriminator="kind")]
    drift_correction: bool
    backbone: BackboneRecord
    classes: tuple[str, ...]
    template: str  # zero-shot baseline, and layer 0 at the start of training
    anchor_name: str  # name of the template list whose average is the frozen anchor
    anchor_templates: tuple[str, ...]
    origin: Origin
    metrics: dict[str, float]  # of this adapter, percent
    pictures: dict[str, int] = {}  # how many stand behind each of the metrics
    report: dict[str, Reported] = {}  # base, novel, hm: what the method reached here when trained on half of the classes
    # Scores are divided by it to become probabilities; fitted on validation pictures, 1 where there are none.
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, values: Any) -> Any:
        """Format 1 knew MMLoP's prompts alone."""
        if not isinstance(values, dict) or values.get("format") != 1 or not isinstance(values.get("prompts"), dict):
            return values
        shape = dict(values["prompts"])
        form = "shared" if shape.pop("shared", None) else "low_rank"
        others = {key: value for key, value in values.items() if key != "prompts"}
        return others | {"format": 2, "shape": shape | {"kind": "prompts", "form": form, "encoders": "both"}}


@dataclass(frozen=True)
class Adapter:
    factors: Factors
    info: AdapterInfo

    @property
    def shape(self) -> Shape:
        return self.info.shape

    def save(self, folder: Path) -> None:
        """Write the folder, replacing one that is there. Raises NoRoom on a full disk."""
        with replacing(folder) as beside:
            beside.mkdir()
            tensors = {name: value.float().contiguous() for name, value in self.factors.items()}
            (beside / "adapter.safetensors").write_bytes(save(tensors))  # unlike save_file, says when a disk is full
            (beside / "adapter.json").write_text(dump_json(self.info.model_dump(mode="json")), encoding="utf-8")
            (beside / "README.md").write_text(card.markdown(self), encoding="utf-8")
            (beside / "card.html").write_text(card.html(self), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Adapter:
        """Read a folder. Raises MmlopError, saying which, for a missing or corrupt file, an unknown format or key, and
        factors that are not those adapter.json describes."""
        folder = Path(folder)
        info_file, factors_file = folder / "adapter.json", folder / "adapter.safetensors"
        for file in (info_file, factors_file):
            if not file.is_file():
                raise MmlopError(f"{folder} is no adapter: it has no {file.name}.")
        try:
            info = AdapterInfo.model_validate_json(info_file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise MmlopError(f"{info_file} is not an adapter description of format 2: {where}: {first['msg']}.") from error
        try:
            factors = load_file(factors_file)
        except (SafetensorError, OSError) as error:
            raise MmlopError(f"{factors_file} is corrupt ({error}): fetch or train the adapter again.") from error
        adapter = cls(factors, info)
        _check_factors(factors, adapter.shape, factors_file)
        return adapter

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise MmlopError if the factors were trained for another backbone."""
        wanted = self.info.backbone
        if backbone.fingerprint != wanted.fingerprint:
            raise MmlopError(
                f"This adapter was trained for {wanted.name} ({wanted.weights}, fingerprint {wanted.fingerprint[:12]}), "
                f"not for {backbone.name} ({backbone.weights}, fingerprint {backbone.fingerprint[:12]}): load that one."
            )
        if backbone.preprocessing.size != wanted.resolution:
            raise MmlopError(
                f"This adapter was trained on pictures of {wanted.resolution} pixels, but {backbone.name} was loaded for "
                f"{backbone.preprocessing.size}: set `resolution: {wanted.resolution}`."
            )


def record(backbone: Backbone) -> BackboneRecord:
    return BackboneRecord(
        name=backbone.name,
        weights=backbone.weights,
        fingerprint=backbone.fingerprint,
        precision=backbone.precision,
        resolution=backbone.preprocessing.size,
        mean=backbone.preprocessing.mean,
        std=backbone.preprocessing.std,
    )


def identity(folder: Path) -> str:
    """SHA-256 (hex) over the two files that make the adapter: the same adapter, the same identity."""
    digest = hashlib.sha256()
    for name in ("adapter.safetensors", "adapter.json"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _check_factors(factors: Factors, shape: Shape, file: Path) -> None:
    wanted = shape.factors
    if set(factors) != set(wanted):
        held, expected = (", ".join(sorted(names)) or "nothing" for names in (factors, wanted))
        raise MmlopError(f"{file} holds {held}, but {expected} was expected.")
    for name, size in wanted.items():
        found = factors[name]
        if tuple(found.shape) != size or found.dtype != torch.float32:
            raise MmlopError(f"{file}: {name} is {tuple(found.shape)} {found.dtype}, expected {size} torch.float32.")
        if not torch.isfinite(found).all():
            raise MmlopError(f"{file}: {name} holds numbers that are not finite; train the adapter again.")
