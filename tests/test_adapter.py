"""The adapter folder: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import json
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_clip
from make_adapter import make_adapter
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmlop.adapter import Adapter, BackboneRecord, identity
from mmlop.backbone import Backbone, wrap
from mmlop.errors import MmlopError
from mmlop.lora import LoraShape
from mmlop.probe import ProbeShape
from mmlop.prompts import Form, PromptShape
from mmlop.shapes import NoShape, Shape
from mmlop.tip import CacheShape

FILES = ["README.md", "adapter.json", "adapter.safetensors", "card.html"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture
def folder(backbone: Backbone, tmp_path: Path) -> Path:
    make_adapter(backbone).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((folder / "adapter.json").read_text())
    change(info)
    (folder / "adapter.json").write_text(json.dumps(info))


def refit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    factors = load_file(folder / "adapter.safetensors")
    change(factors)
    save_file(factors, folder / "adapter.safetensors")


# Round trip


@pytest.mark.parametrize("form", ["shared", "low_rank"])
def test_what_is_saved_is_what_is_loaded(backbone: Backbone, tmp_path: Path, form: Form) -> None:
    adapter = make_adapter(backbone, shape=PromptShape(2, 3, 2, 32, 32, form))
    adapter.save(tmp_path / "a")
    loaded = Adapter.load(tmp_path / "a")
    assert loaded.info == adapter.info
    assert loaded.shape == adapter.shape
    assert loaded.factors.keys() == adapter.factors.keys()
    for name, value in adapter.factors.items():
        assert torch.equal(loaded.factors[name], value)
    loaded.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


SHAPES: dict[str, Shape] = {
    "full": PromptShape(2, 3, None, 32, 32, "full"),
    "text alone": PromptShape(1, 4, None, 32, 32, "full", "text"),
    "image alone": PromptShape(2, 3, 1, 32, 32, "low_rank", "vision"),
    "coupled": PromptShape(2, 3, None, 32, 32, "coupled"),
    "lora": LoraShape(2, 2, 2, 32, 32),
    "lora of another strength": LoraShape(2, 2, 2, 32, 32, 0.5),
    "probe": ProbeShape(3, 16),
    "cache": CacheShape(6, 3, 16),
    "nothing": NoShape(),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_so_is_what_other_methods_leave(backbone: Backbone, tmp_path: Path, kind: str) -> None:
    shape, generator = SHAPES[kind], torch.Generator().manual_seed(1)
    factors = {name: torch.randn(size, generator=generator) for name, size in shape.factors.items()}
    adapter = Adapter(factors, make_adapter(backbone, method="other").info.model_copy(update={"shape": shape}))
    adapter.save(tmp_path / "a")
    loaded = Adapter.load(tmp_path / "a")
    assert loaded.info == adapter.info
    assert type(loaded.shape) is type(shape)
    assert loaded.factors.keys() == factors.keys()
    assert all(torch.equal(loaded.factors[name], value) for name, value in factors.items())
    loaded.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert "# other adapter for pets" in card
    assert f"has\n{shape.trainable:,} trained numbers: " in card
    if factors:  # and factors of another kind are not taken for these
        refit(tmp_path / "a", lambda tensors: tensors.pop(next(iter(factors))))
    else:
        refit(tmp_path / "a", lambda tensors: tensors.update(U=torch.zeros(1)))
    with pytest.raises(MmlopError, match=r"holds .*, but .* was expected"):
        Adapter.load(tmp_path / "a")


@pytest.mark.parametrize("form", ["shared", "low_rank"])
def test_format_1_is_still_read(backbone: Backbone, tmp_path: Path, form: Form) -> None:
    """It knew MMLoP alone, with `prompts` in place of the shape."""
    adapter = make_adapter(backbone, shape=PromptShape(2, 3, 2, 32, 32, form))
    adapter.save(tmp_path / "a")

    def as_format_1(info: dict[str, Any]) -> None:
        shape = info.pop("shape")
        prompts = {key: shape[key] for key in ("depth", "tokens", "rank", "vision_width", "text_width")}
        del info["temperature"]
        info.update(format=1, prompts=prompts | {"shared": form == "shared"})

    edit(tmp_path / "a", as_format_1)
    loaded = Adapter.load(tmp_path / "a")
    assert loaded.info == adapter.info
    assert all(torch.equal(loaded.factors[name], value) for name, value in adapter.factors.items())
    loaded.save(tmp_path / "b")  # as format 2, and then it is the same adapter
    adapter.save(tmp_path / "c")
    assert identity(tmp_path / "b") == identity(tmp_path / "c")


def test_format_1_is_checked_too(folder: Path) -> None:
    edit(folder, lambda info: info.update(format=1))
    with pytest.raises(MmlopError, match="format: Input should be 2"):  # format 2's shape, under format 1
        Adapter.load(folder)
    prompts = {"depth": 2, "tokens": 3, "rank": 4, "vision_width": 32, "text_width": 32, "shared": True}
    edit(folder, lambda info: void((info.pop("shape"), info.update(prompts=prompts))))
    with pytest.raises(MmlopError, match=r"prompts\.rank is 4, but 3 prompt tokens"):
        Adapter.load(folder)
    edit(folder, lambda info: info.update(prompts={**prompts, "rank": 2, "colour": 1}))
    with pytest.raises(MmlopError, match=r"shape\.prompts\.colour: Unexpected keyword"):
        Adapter.load(folder)
    edit(folder, lambda info: info.update(prompts={**prompts, "rank": 1}))
    with pytest.raises(MmlopError, match=r"U is \(2, 3, 2\) torch.float32, expected \(2, 3, 1\)"):
        Adapter.load(folder)


def test_the_folder_holds_four_files_and_nothing_is_left_beside_it(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert list(folder.parent.iterdir()) == [folder]


def test_saving_replaces_a_folder_whole(backbone: Backbone, folder: Path) -> None:
    (folder / "stray.txt").write_text("old")
    other = make_adapter(backbone, seed=1)
    other.save(folder)
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert torch.equal(Adapter.load(folder).factors["U"], other.factors["U"])


def test_a_save_that_fails_keeps_the_old_folder(backbone: Backbone, folder: Path) -> None:
    before = identity(folder)
    with pytest.raises(ValueError):
        make_adapter(backbone, seed=1, metrics={"accuracy": float("nan")}).save(folder)
    assert identity(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_the_json_is_sorted_and_ends_with_a_line(folder: Path) -> None:
    text = (folder / "adapter.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert json.loads(text)["format"] == 2


def test_factors_are_safetensors_and_no_pickle(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    with safe_open(file, framework="pt") as stored:
        assert set(stored.keys()) == {"U", "V_text", "V_vision"}
        assert not stored.metadata()
    with pytest.raises(ValueError):
        list(pickletools.genops(file.read_bytes()))


def test_the_papers_adapter_is_small(tmp_path: Path) -> None:
    shape = PromptShape(9, 4, 1, 768, 512)
    names = tuple(f"a class with quite a long name, number {i}" for i in range(100))
    make_adapter(wrap(tiny_clip(), "tiny", "random"), shape=shape, classes=names).save(tmp_path / "a")
    assert (tmp_path / "a" / "adapter.safetensors").stat().st_size <= 4 * shape.trainable + 1000
    assert sum(file.stat().st_size for file in (tmp_path / "a").iterdir()) <= 70_000


def test_identity_changes_with_content_alone(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    make_adapter(backbone).save(tmp_path / "elsewhere")
    same = identity(folder)
    assert identity(tmp_path / "elsewhere") == same
    (folder / "README.md").write_text("edited")
    assert identity(folder) == same
    edit(folder, lambda info: info["metrics"].update(accuracy=87.6))
    edited = identity(folder)
    refit(folder, lambda factors: factors["U"].view(-1)[:1].add_(1e-6))
    assert len({same, edited, identity(folder)}) == 3


# Refusals


def truncate(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(content))


def void(_: object) -> None:
    return None


REFUSALS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no json": (lambda f: (f / "adapter.json").unlink(), "is no adapter: it has no adapter.json"),
    "no factors": (lambda f: (f / "adapter.safetensors").unlink(), "is no adapter: it has no adapter.safetensors"),
    "truncated": (truncate, "adapter.safetensors is corrupt"),
    "empty factors": (overwrite("adapter.safetensors", b""), "adapter.safetensors is corrupt"),
    "pickle": (lambda f: torch.save({}, f / "adapter.safetensors"), "adapter.safetensors is corrupt"),
    "not json": (overwrite("adapter.json", b"{"), "not an adapter description of format 2: the file: Invalid JSON"),
    "not text": (overwrite("adapter.json", b"\xff\xfe\x00"), "not an adapter description of format 2: the file"),
    "a list": (overwrite("adapter.json", b"[]"), "not an adapter description of format 2: the file"),
    "format 3": (lambda f: edit(f, lambda i: i.update(format=3)), "format 2: format: Input should be 2"),
    "unknown key": (lambda f: edit(f, lambda i: i.update(colour=2)), "format 2: colour: Extra inputs"),
    "missing key": (lambda f: edit(f, lambda i: i.pop("classes")), "format 2: classes: Field required"),
    "unknown inner key": (lambda f: edit(f, lambda i: i["backbone"].update(x=1)), r"format 2: backbone\.x: Extra inputs"),
    "missing inner key": (lambda f: edit(f, lambda i: i["origin"].pop("seed")), r"format 2: origin\.seed: Field required"),
    "unknown shape key": (lambda f: edit(f, lambda i: i["shape"].update(x=1)), "format 2: shape"),
    "missing shape key": (lambda f: edit(f, lambda i: i["shape"].pop("rank")), "format 2: shape"),
    "no temperature": (lambda f: edit(f, lambda i: i.update(temperature=0)), "format 2: temperature: Input should be"),
    "endless temperature": (
        lambda f: edit(f, lambda i: i.update(temperature="inf")),
        "format 2: temperature: Input should",
    ),
    "no kind": (lambda f: edit(f, lambda i: i["shape"].pop("kind")), "format 2: shape: Unable to extract tag"),
    "unknown kind": (lambda f: edit(f, lambda i: i["shape"].update(kind="x")), "format 2: shape: Input tag 'x'"),
    "impossible rank": (lambda f: edit(f, lambda i: i["shape"].update(rank=4)), "prompts.rank is 4, but 3 prompt tokens"),
    "wrong type": (lambda f: edit(f, lambda i: i.update(classes="cat")), "format 2: classes"),
    "missing factor": (lambda f: refit(f, lambda t: t.pop("U")), "holds V_text, V_vision, but U, V_text, V_vision was exp"),
    "extra factor": (lambda f: refit(f, lambda t: t.update(W=torch.zeros(1))), "holds U, V_text, V_vision, W, but"),
    "wrong shape": (
        lambda f: refit(f, lambda t: t.update(U=torch.zeros(1, 3, 2))),
        r"U is \(1, 3, 2\) torch.float32, expected \(2, 3, 2\) torch.float32",
    ),
    "wrong type of numbers": (lambda f: refit(f, lambda t: t.update(U=t["U"].half())), r"U is \(2, 3, 2\) torch.float16"),
    "nan": (lambda f: refit(f, lambda t: t["U"][0, 0].fill_(torch.nan)), "U holds numbers that are not finite"),
    "infinity": (lambda f: refit(f, lambda t: t["V_text"][0, 0].fill_(torch.inf)), "V_text holds numbers that are not fin"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_spoilt_folder_is_refused_with_a_sentence(folder: Path, case: str) -> None:
    spoil, sentence = REFUSALS[case]
    spoil(folder)
    with pytest.raises(MmlopError, match=sentence) as error:
        Adapter.load(folder)
    if case != "impossible rank":
        assert str(folder) in str(error.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"nowhere is no adapter: it has no adapter\.json"):
        Adapter.load(tmp_path / "nowhere")


def test_another_backbone_is_refused(backbone: Backbone) -> None:
    adapter = make_adapter(backbone)
    adapter.check_backbone(backbone)
    adapter.check_backbone(wrap(tiny_clip(), "another name", "another source", "bf16"))  # the same weights
    with pytest.raises(
        MmlopError, match=r"trained for tiny \(random, fingerprint .*\), not for other \(weights, fingerprint"
    ):
        adapter.check_backbone(wrap(tiny_clip(1), "other", "weights"))


def test_another_resolution_is_refused(backbone: Backbone) -> None:
    adapter = make_adapter(backbone)
    fields = adapter.info.backbone.model_dump() | {"resolution": 64}
    other = make_adapter(backbone, backbone=BackboneRecord(**fields))
    with pytest.raises(
        MmlopError, match="trained on pictures of 64 pixels, but tiny was loaded for 32: set `resolution: 64`"
    ):
        other.check_backbone(backbone)
