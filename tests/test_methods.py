"""The methods: how many numbers each learns on ViT-B/16, and how their settings are put together."""

from __future__ import annotations

from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from pydantic import ValidationError

from mmlop import config, configured, methods, probe, published, tip
from mmlop.backbone import Backbone, Preprocessing
from mmlop.config import Params
from mmlop.data import splits
from mmlop.errors import MmlopError
from mmlop.methods import METHODS
from mmlop.settings import COMMON, Settings, merged
from mmlop.tip import CacheShape

VALUES: dict[str, Any] = {
    "datasets": ["toy"],
    "backbone": "vit-b-16",
    "profiles": {"vit-b-16": {"architecture": "ViT-B-16-quickgelu", "weights": "openai"}},
}
COUNTS = {
    "mmlop": 11_556,
    "promptsrc": 46_080,
    "maple": 3_555_072,
    "ivlp": 46_080,
    "vpt": 73_728,
    "coop": 2_048,
    "kgcoop": 2_048,
    "zero_shot": 0,
    "tip_adapter": 0,
    "clip_lora": 184_320,
}


@cache
def vit_b_16() -> Backbone:
    """The architecture as open_clip builds it, without the memory of its weights."""
    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-16-quickgelu"))
    preprocessing = Preprocessing(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Backbone("ViT-B-16-quickgelu", "none", model, SimpleTokenizer(), preprocessing, "none")


def params(method: str = "mmlop", **changes: Any) -> Params:
    return config.parse(VALUES | {"method": method} | changes, "here")


def trainable(found: Params) -> int:
    """Numbers trained on ViT-B/16, counted tensor by tensor."""
    shape = configured.shape(found, vit_b_16())
    if shape is None:
        return 0
    count = sum(torch.empty(size, device="meta").numel() for size in shape.factors.values())
    assert count == shape.trainable
    return count


@pytest.mark.parametrize("method", COUNTS)
def test_trained_numbers_on_vit_b_16(method: str) -> None:
    assert trainable(params(method)) == COUNTS[method]


def test_they_are_the_published_ones() -> None:
    known = published.load().parameters
    assert {name: record.count for name, record in known.items() if name in METHODS} == COUNTS
    assert set(METHODS) - set(COUNTS) == {"linear_probe"}  # depends on the number of classes


def test_variants_of_a_method_are_a_setting_away() -> None:
    assert trainable(params("coop", prompts={"tokens": 16})) == 8_192  # the few-shot runs of its paper
    assert trainable(params("mmlop", prompts={"form": "low_rank"})) == 11_592
    assert trainable(params("mmlop", prompts={"form": "full"})) == 46_080  # IVLP's prompts
    assert trainable(params("mmlop", prompts={"rank": 4})) == 9 * (4 * 4 + 4 * (768 + 512))
    assert trainable(params("vpt", prompts={"depth": 1})) == 8 * 768  # VPT shallow
    assert trainable(params("clip_lora", lora={"rank": 4})) == 2 * 184_320
    low_rank = {"form": "low_rank", "rank": 1}
    assert trainable(params("coop", prompts=low_rank)) == 4 + 512
    assert trainable(params("vpt", prompts=low_rank)) == 12 * (8 + 768)


def test_methods_without_gradients_have_no_shape_beforehand() -> None:
    for method in ("zero_shot", "linear_probe", "tip_adapter"):
        assert configured.shape(params(method), vit_b_16()) is None
    assert CacheShape(pictures=1600, classes=100, embed_dim=512).trainable == 0


@pytest.mark.parametrize("method", METHODS)
def test_real_clip_has_the_published_settings(method: str) -> None:
    found, record = params(method).effective, METHODS[method].settings
    for section, values in record.model_dump(exclude_none=True).items():
        for key, value in values.items():
            assert found[section][key] == value, (section, key)
    if METHODS[method].kind == "prompts":
        assert None not in (found["prompts"][key] for key in ("encoders", "form", "tokens", "depth"))
        assert bool(found["prompts"]["rank"]) == (found["prompts"]["form"] in ("low_rank", "shared"))
    if METHODS[method].kind in ("prompts", "lora"):
        assert found["train"]["learning_rate"]
        assert bool(found["train"]["epochs"]) != bool(found["train"]["steps_per_shot"])


# Published values, one by one, with where they are published (all for ViT-B/16, base-to-novel, 16 shots).

PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "mmlop": [
        {"train.epochs": 30, "prompts.depth": 9, "prompts.rank": 1, "prompts.form": "shared"},  # docs/method.md
        {"train.learning_rate": 0.0025, "train.batch_size": 4, "prompts.tokens": 4},  # PromptSRC's, docs/method.md
        {"loss.text": 25, "loss.image": 10, "loss.logits": 1, "loss.distance": "l1"},  # PromptSRC's, docs/method.md
        {"loss.drift_correction": True, "train.averaging": False},  # docs/method.md
    ],
    "promptsrc": [  # muzairkhattak/PromptSRC
        # configs/trainers/PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml
        {"train.epochs": 20, "train.learning_rate": 0.0025, "train.batch_size": 4},
        {"prompts.encoders": "both", "prompts.form": "full", "prompts.tokens": 4, "prompts.depth": 9},
        {"train.averaging": {"mean": 15 / 20, "std": 1 / 20}},  # GPA_MEAN and GPA_STD, in epochs
        {"loss.text": 25, "loss.image": 10, "loss.logits": 1, "loss.distance": "l1"},  # trainers/promptsrc.py:300-313
        {"loss.anchor": "list"},  # trainers/promptsrc.py:122-128
    ],
    "maple": [  # muzairkhattak/multimodal-prompt-learning configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml
        {"train.epochs": 5, "train.learning_rate": 0.0035, "train.batch_size": 4},
        {"prompts.encoders": "both", "prompts.form": "coupled", "prompts.tokens": 2, "prompts.depth": 9},
        {"loss.text": 0, "loss.image": 0, "loss.logits": 0, "train.averaging": False},
    ],
    "ivlp": [  # muzairkhattak/PromptSRC configs/trainers/IVLP/vit_b16_c2_ep20_batch4_4+4ctx.yaml
        {"train.epochs": 20, "train.learning_rate": 0.0025, "train.batch_size": 4},
        {"prompts.encoders": "both", "prompts.form": "full", "prompts.tokens": 4, "prompts.depth": 9},
        {"loss.text": 0, "loss.image": 0, "loss.logits": 0, "train.averaging": False},
    ],
    "vpt": [  # muzairkhattak/multimodal-prompt-learning configs/trainers/VPT/vit_b16_c2_ep5_batch4_4.yaml
        {"train.epochs": 5, "train.learning_rate": 0.0025, "train.batch_size": 4},
        {"prompts.encoders": "vision", "prompts.form": "full", "prompts.tokens": 8, "prompts.depth": 12},
        {"loss.text": 0, "loss.image": 0, "loss.logits": 0, "train.averaging": False},
    ],
    "coop": [  # KaiyangZhou/CoOp
        # configs/trainers/CoOp/vit_b16_ctxv1.yaml:3, 17, 18
        {"train.epochs": 200, "train.learning_rate": 0.002, "train.batch_size": 32},
        # the same, CTX_INIT, and trainers/coop.py:75
        {"prompts.encoders": "text", "prompts.form": "full", "prompts.tokens": 4, "prompts.depth": 1},
        {"loss.text": 0, "loss.image": 0, "loss.logits": 0, "train.averaging": False},
    ],
    "kgcoop": [  # htyao89/KgCoOp
        # configs/trainers/KgCoOp/vit_b16_ep100_ctxv1.yaml
        {"train.epochs": 100, "train.learning_rate": 0.002, "train.batch_size": 128},
        # scripts/base2new_train.sh:13
        {"prompts.encoders": "text", "prompts.form": "full", "prompts.tokens": 4, "prompts.depth": 1},
        {"loss.text": 8, "loss.image": 0, "loss.logits": 0},  # scripts/run.sh:2-11
        {"loss.distance": "cosine", "loss.anchor": "template"},  # trainers/kgcoop.py:238-241, 136
    ],
    "clip_lora": [  # MaxZanella/CLIP-LoRA
        {"lora.rank": 2, "lora.alpha": 1},  # run_utils.py:35-36
        {"train.epochs": None, "train.steps_per_shot": 500, "train.batch_size": 32},  # run_utils.py:29, 30; lora.py:73
        {"train.optimiser": "adamw", "train.learning_rate": 2e-4, "train.weight_decay": 1e-2},  # lora.py:75
        {"train.warmup_epochs": 0},  # lora.py:76
        {"loss.text": 0, "loss.image": 0, "loss.logits": 0, "train.averaging": False},
    ],
    "tip_adapter": [  # gaopengcuhk/Tip-Adapter
        {"train.views": 10},  # configs/*.yaml, augment_epoch
        {"train.crop": 0.5, "train.flip": True},  # main.py:174-175
    ],
    "linear_probe": [],  # see below
    "zero_shot": [],
}
DASSL = {  # KaiyangZhou/Dassl.pytorch, for all that are built on it
    **{"train.optimiser": "sgd", "train.momentum": 0.9, "train.weight_decay": 5e-4},  # dassl/config/defaults.py:153-156
    **{"train.warmup_epochs": 1, "train.warmup_rate": 1e-5},  # WARMUP_EPOCH and WARMUP_CONS_LR of each method's file
    **{"train.crop": 0.08, "train.flip": True, "train.views": 0},  # dassl/data/transforms/transforms.py:231-239
}


@pytest.mark.parametrize("method", METHODS)
def test_every_published_value(method: str) -> None:
    found = params(method).effective
    of_dassl = DASSL if METHODS[method].kind == "prompts" else {}
    for key, value in {key: value for values in (of_dassl, *PUBLISHED[method]) for key, value in values.items()}.items():
        section, name = key.split(".")
        assert found[section][name] == value, key


def test_published_values_of_what_is_searched() -> None:
    # KaiyangZhou/CoOp lpclip/linear_probe.py:54-57, 67-95
    assert [10**exponent for exponent in probe.GRID] == [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    assert (probe.STEPS, probe.ROUNDS) == (1000, 8)
    assert splits.VALIDATION_SHOTS == 4  # the same, 25
    assert (tip.ALPHA, tip.BETA) == (1.17, 1)  # gaopengcuhk/Tip-Adapter configs/imagenet.yaml


def test_what_sets_one_method_apart_from_another() -> None:
    """Each step of the family changes what its name says, and nothing else."""

    def differing(one: str, other: str) -> set[str]:
        first, second = params(one).effective, params(other).effective
        return {f"{s}.{key}" for s in first for key in first[s] if first[s][key] != second[s][key]}

    consistency = {"loss.text", "loss.image", "loss.logits"}
    assert differing("ivlp", "promptsrc") == consistency | {"train.averaging"}
    assert differing("promptsrc", "mmlop") == {
        *("prompts.form", "prompts.rank"),
        *("loss.drift_correction", "train.averaging", "train.epochs"),
    }
    assert differing("coop", "kgcoop") == {
        *("loss.text", "loss.distance", "loss.anchor"),
        *("train.epochs", "train.batch_size"),
    }


def test_an_unknown_method_is_named_with_what_there_is() -> None:
    assert methods.get("coop").title == "CoOp"
    with pytest.raises(MmlopError, match="There is no method 'copo': choose one of coop, "):
        methods.get("copo")


def test_ties_between_encoders_need_both() -> None:
    with pytest.raises(MmlopError, match=r"prompts\.form is shared, which ties the two encoders together"):
        configured.shape(params("coop", prompts={"form": "shared", "rank": 1}), vit_b_16())


@pytest.mark.parametrize(("method", "deepest"), [("vpt", 12), ("coop", 12), ("ivlp", 12)])
def test_prompts_deeper_than_their_encoder_are_refused(method: str, deepest: int) -> None:
    assert trainable(params(method, prompts={"depth": deepest}))
    with pytest.raises(MmlopError, match=rf"prompts\.depth is {deepest + 1}, but .* choose 1 to {deepest}\."):
        configured.shape(params(method, prompts={"depth": deepest + 1}), vit_b_16())


# How layers are put together


PATHS = [(section, key) for section, values in merged(COMMON).items() for key in values]
NUMBERS = {  # of each type one field or more, each with values it may have
    ("prompts", "tokens"): st.integers(1, 9),
    ("prompts", "encoders"): st.sampled_from(["both", "vision", "text"]),
    ("lora", "alpha"): st.floats(0.1, 9),
    ("loss", "text"): st.sampled_from([0.0, 1.0, 25.0]),  # 0 is a value, not a gap
    ("loss", "drift_correction"): st.booleans(),  # and so is False
    ("train", "learning_rate"): st.floats(1e-4, 1.0),
    ("train", "warmup_epochs"): st.integers(0, 3),
    ("train", "flip"): st.booleans(),
    ("train", "averaging"): st.sampled_from([False, {"mean": 0.5, "std": 0.25}]),
}


@st.composite
def layers(draw: st.DrawFn) -> Settings:
    chosen: dict[str, dict[str, Any]] = {"prompts": {}, "lora": {}, "loss": {}, "train": {}}
    for (section, key), values in NUMBERS.items():
        if (value := draw(st.none() | values)) is not None:
            chosen[section][key] = value
    if length := draw(st.sampled_from([None, "epochs", "steps_per_shot"])):
        chosen["train"][length] = draw(st.integers(1, 99))
    return Settings.model_validate(chosen)


@given(st.lists(layers(), max_size=5))
def test_the_first_layer_with_a_value_wins(several: list[Settings]) -> None:
    found = merged(*several)
    assert [(section, key) for section, values in found.items() for key in values] == PATHS
    dumped = [layer.model_dump() for layer in several]
    for section, key in PATHS:
        if key not in ("epochs", "steps_per_shot"):
            given_ = [layer[section][key] for layer in dumped if layer[section][key] is not None]
            assert found[section][key] == (given_[0] if given_ else None), (section, key)


@given(st.lists(layers(), max_size=5))
def test_epochs_and_steps_stand_for_one_another(several: list[Settings]) -> None:
    lengths = [(layer.train.epochs, layer.train.steps_per_shot) for layer in several]
    found = merged(*several)["train"]
    expected = next((length for length in lengths if length != (None, None)), (None, None))
    assert (found["epochs"], found["steps_per_shot"]) == expected


def test_both_lengths_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="epochs and steps_per_shot both say how long training is"):
        Settings.model_validate({"train": {"epochs": 3, "steps_per_shot": 9}})


def test_layers_of_params_yaml_in_their_order() -> None:
    """params.yaml > the profile's for the method > the profile's > the method's > what all have in common."""
    layers_ = [  # each a value further than the one before
        {"momentum": 0.1},
        {"momentum": 0.2, "crop": 0.2},
        {"momentum": 0.3, "crop": 0.3, "batch_size": 3},
    ]
    profile = {"architecture": "x", "train": layers_[2], "methods": {"coop": {"train": layers_[1]}}}
    values = VALUES | {"profiles": {"vit-b-16": profile}, "train": layers_[0]}
    found = config.parse(values | {"method": "coop"}, "here").effective["train"]
    assert (found["momentum"], found["crop"], found["batch_size"]) == (0.1, 0.2, 3)
    assert (found["epochs"], found["weight_decay"]) == (200, 5e-4)  # the method's own, and everybody's
    other = config.parse(values | {"method": "ivlp"}, "here").effective["train"]
    assert (other["momentum"], other["crop"], other["batch_size"]) == (0.1, 0.3, 3)  # coop's settings are coop's alone
