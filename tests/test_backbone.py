"""Loading a backbone: its fingerprint, what is refused and why, and where weights may come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import tiny_clip
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

from mmlop.backbone import Backbone, Preprocessing, fingerprint_of, load, wrap
from mmlop.encode import encode_image, encode_text
from mmlop.errors import MmlopError
from mmlop.features import frozen_text

VISION: dict[str, Any] = {"layers": 2, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16}
TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIZES: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}


def clip(kind: type = CLIP, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **other: Any) -> Any:
    return kind(embed_dim=16, vision_cfg=VISION | (vision or {}), text_cfg=TEXT | (text or {}), **other)


# Fingerprint


def test_fingerprint_changes_with_a_single_bit() -> None:
    model = tiny_clip()
    before = fingerprint_of(model)
    assert fingerprint_of(tiny_clip()) == before
    weight = model.visual.transformer.resblocks[1].mlp.c_fc.weight.data
    bits = weight.view(torch.int32)
    bits[3, 5] ^= 1
    assert fingerprint_of(model) != before
    bits[3, 5] ^= 1
    assert fingerprint_of(model) == before


def test_fingerprint_is_of_names_and_shapes_too() -> None:
    one = torch.nn.Linear(4, 6, bias=False)
    other = torch.nn.Linear(6, 4, bias=False)
    other.weight.data = one.weight.data.view(4, 6).clone()
    assert fingerprint_of(one) != fingerprint_of(other)
    assert fingerprint_of(torch.nn.Sequential(one)) != fingerprint_of(one)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fingerprint_does_not_depend_on_precision(precision: str) -> None:
    low = wrap(tiny_clip(), "tiny", "random", precision)
    assert low.fingerprint == wrap(tiny_clip(), "tiny", "random").fingerprint
    assert low.visual.transformer.resblocks[0].mlp.c_fc.weight.dtype != torch.float32


def test_a_wrapped_model_is_frozen_and_its_sizes_are_read_from_it() -> None:
    model = clip(vision={"layers": 3, "width": 48}, text={"context_length": 20, "layers": 1})
    backbone = wrap(model, "tiny", "random")
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    assert (backbone.vision_layers, backbone.text_layers) == (3, 1)
    assert (backbone.vision_width, backbone.text_width, backbone.embed_dim) == (48, 32, 16)
    assert backbone.context_length == 20
    assert backbone.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)
    assert backbone.preprocessing == Preprocessing(32, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


# Models that cannot be prompted


def small_coca(**vision: Any) -> CoCa:
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    text = {"embed_cls": True, "output_tokens": True, "context_length": 76}
    return clip(CoCa, vision={"output_tokens": True} | vision, text=text, multimodal_cfg=decoder)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: clip(vision={"layers": (1, 1, 1, 1), "width": 32, "head_width": 32}), "its image tower is a ModifiedResNet"),
    (lambda: clip(vision={"pool_type": "avg"}), "its image tower pools 'avg' instead of the class token"),
    (lambda: clip(vision={"attentional_pool": True}), "its image tower pools by attention"),
    (lambda: small_coca(), "it is a CoCa model"),
    (lambda: small_coca(attentional_pool=True), "it is a CoCa model"),
    (lambda: clip(text={"no_causal_mask": True}), "its text tower has no causal mask"),
    (lambda: clip(CustomTextCLIP, text={"no_causal_mask": True}), "its text tower has no causal mask"),
    (lambda: clip(CustomTextCLIP, text={"embed_cls": True}), "its text tower appends a class token"),
    (lambda: clip(text={"pool_type": "first"}), "its text tower pools 'first' instead of EOT"),
    (lambda: clip(CustomTextCLIP, text={"pool_type": "last"}), "its text tower pools 'last' instead of EOT"),
    (lambda: clip(vision={"qk_norm": True}), "its blocks are not standard residual blocks"),
    (lambda: clip(text={"scale_attn": True}), "its blocks are not standard residual blocks"),
    (lambda: clip(text={"vocab_size": 1000}), "its vocabulary is not CLIP's"),
    (lambda: torch.nn.Linear(2, 2), "its image tower is a NoneType"),
]


@pytest.mark.parametrize(("build", "reason"), REFUSED, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(REFUSED)])
def test_models_that_cannot_be_prompted_are_refused_by_name(build: Callable[[], Any], reason: str) -> None:
    with pytest.raises(MmlopError) as refused:
        wrap(build(), "some-clip", "random")
    sentence = str(refused.value)
    assert sentence.startswith(f"some-clip cannot be prompted: {reason}")
    assert "Use a CLIP with a VisionTransformer" in sentence


@pytest.mark.parametrize("changes", [{"vision": {"image_size": (32, 48)}}])
def test_pictures_that_are_not_square_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MmlopError, match="only square, bicubic, centre-cropped"):
        wrap(clip(**changes), "some-clip", "random")


@pytest.mark.parametrize(
    ("vision", "text", "other"),
    [
        ({"no_ln_pre": True}, {}, {}),
        ({"ls_init_value": 0.1}, {"ls_init_value": 0.1}, {}),
        ({"final_ln_after_pool": True, "pos_embed_type": "sin_cos_2d"}, {"final_ln_after_pool": True}, {}),
        ({}, {"proj_bias": True}, {"quick_gelu": True}),
        ({"mlp_ratio": 2.0, "patch_dropout": 0.5}, {"mlp_ratio": 3.0}, {"init_logit_bias": -10.0}),
        ({"norm_kwargs": {"eps": 1e-3}}, {"norm_kwargs": {"eps": 1e-2}, "act_kwargs": {"approximate": "tanh"}}, {}),
    ],
)
@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_variants_that_are_accepted_give_open_clips_features(
    kind: type, vision: dict[str, Any], text: dict[str, Any], other: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    backbone = wrap(clip(kind, vision, text, **other), "variant", "random")
    pictures = torch.randn(2, 3, 32, 32)
    names = ["cat", "a much longer name"]
    tokens = SimpleTokenizer()(names)
    assert torch.allclose(encode_image(backbone, pictures), backbone.model.encode_image(pictures), atol=1e-5)
    assert torch.allclose(encode_text(backbone, backbone.tokenize(names)), backbone.model.encode_text(tokens), atol=1e-5)


def test_a_custom_text_clip_gives_the_same_features_as_a_clip() -> None:
    plain = wrap(tiny_clip(), "plain", "random")
    model = CustomTextCLIP(**SIZES)
    model.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(plain.model.state_dict()))
    custom = wrap(model, "custom", "random")
    pictures, prompts = torch.randn(2, 3, 32, 32), torch.randn(2, 4, 32)
    tokens = plain.tokenize(["cat", "sea horse"])
    for given in (None, prompts):
        assert torch.equal(encode_image(plain, pictures, given), encode_image(custom, pictures, given))
        assert torch.equal(encode_text(plain, tokens, given), encode_text(custom, tokens, given))
    assert torch.equal(frozen_text(plain, ["a_b"], ["my {}."]), frozen_text(custom, ["a b"], ["my {}."]))
    assert torch.equal(plain.word_embeddings("a photo"), custom.word_embeddings("a photo"))


# Names, tags and files


def test_an_unknown_architecture_is_answered_with_near_ones() -> None:
    with pytest.raises(MmlopError, match=r"no architecture 'ViT-B16'. Near ones: ViT-B-16"):
        load("ViT-B16", "openai")


def test_a_missing_folder_is_called_a_folder() -> None:
    with pytest.raises(MmlopError, match=r"backbone folder '\./my-clip' does not exist"):
        load("./my-clip")


def test_an_unknown_tag_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MmlopError, match=r"'opnai' is neither a pretrained tag of ViT-B-16-quickgelu \(openai, ") as error:
        load("ViT-B-16-quickgelu", "opnai")
    assert "nor an existing file" in str(error.value)


def test_a_missing_checkpoint_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"missing\.pt' is neither .* nor an existing file: correct `weights`"):
        load("ViT-B-16", str(tmp_path / "missing.pt"))


def test_weights_must_be_given() -> None:
    with pytest.raises(MmlopError, match=r"ViT-B-16-quickgelu needs weights: a pretrained tag .*openai"):
        load("ViT-B-16-quickgelu")


def test_the_wrong_activation_is_refused_before_anything_is_downloaded() -> None:
    with pytest.raises(MmlopError, match="QuickGELU, which ViT-B-16 does not use: set `architecture: ViT-B-16-quickgelu`"):
        load("ViT-B-16", "openai")


def test_an_unknown_precision_or_device_is_refused() -> None:
    with pytest.raises(MmlopError, match=r"Precision 'fp61' is unknown: choose one of fp16, "):
        load("mini", precision="fp61")
    with pytest.raises(MmlopError, match=r"Device 'abacus' cannot be used on this machine .*: choose device: cpu"):
        wrap(tiny_clip(), "tiny", "random", device="abacus")


def test_weights_that_are_not_there_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MmlopError) as error:
        load("ViT-B-16", "laion2b_s34b_b88k")
    sentence = str(error.value)
    assert sentence.startswith("The weights 'laion2b_s34b_b88k' of ViT-B-16 could not be downloaded")
    assert "give its path as `weights` in this profile of params.yaml" in sentence


@pytest.mark.slow
def test_weights_from_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """A real attempt; the hub's client tries again for three quarters of a minute."""
    program = "from mmlop.backbone import load; load('ViT-B-16', 'laion2b_s34b_b88k')"
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "The weights 'laion2b_s34b_b88k' of ViT-B-16 could not be downloaded" in last


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small architecture registered with open_clip under a name of its own."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny-test-clip.json").write_text(json.dumps(SIZES))
    open_clip.add_model_config(folder)
    return "tiny-test-clip"


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_checkpoint_file_is_loaded(architecture: str, tmp_path: Path, kind: str) -> None:
    model, file = tiny_clip(3), tmp_path / f"mine.{kind}"
    if kind == "pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    else:
        save_file(model.state_dict(), file)
    backbone = load(architecture, str(file))
    assert backbone.fingerprint == fingerprint_of(model)
    assert (backbone.name, backbone.weights) == (architecture, str(file))


def test_openais_own_archives_are_loaded_and_need_quickgelu(tmp_path: Path) -> None:
    (tmp_path / "tiny-openai-quickgelu.json").write_text(json.dumps(SIZES | {"quick_gelu": True}))
    (tmp_path / "tiny-openai.json").write_text(json.dumps(SIZES))
    open_clip.add_model_config(tmp_path)
    model = tiny_clip(5).eval()
    model.register_buffer("input_resolution", torch.tensor(32))  # OpenAI keeps this and two more among the weights
    file = str(tmp_path / "openai.pt")
    torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), torch.ones(1, 77, dtype=torch.long)), check_trace=False).save(file)
    assert load("tiny-openai-quickgelu", file).fingerprint == fingerprint_of(tiny_clip(5))
    with pytest.raises(MmlopError, match="set `architecture: tiny-openai-quickgelu`"):
        load("tiny-openai", file)


def damaged(file: Path) -> None:
    file.write_bytes(b"this is no checkpoint")


def truncated(file: Path) -> None:
    save_file(tiny_clip().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-1000])


def of_another_shape(file: Path) -> None:
    save_file(clip(vision={"width": 64}).state_dict(), file)


def without_a_weight(file: Path) -> None:
    state = tiny_clip().state_dict()
    del state["ln_final.weight"]
    save_file(state, file)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [damaged, truncated, of_another_shape, without_a_weight, empty])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_checkpoint_that_does_not_fit_is_refused(
    architecture: str, tmp_path: Path, spoil: Callable[[Path], None], suffix: str
) -> None:
    file = tmp_path / f"bad.{suffix}"
    spoil(file)
    with pytest.raises(MmlopError, match=rf"bad\.{suffix} could not be loaded as tiny-test-clip: "):
        load(architecture, str(file))


def test_a_pickled_checkpoint_cannot_run_code(architecture: str, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(MmlopError, match="could not be loaded"):
        load(architecture, str(tmp_path / "hostile.pt"))
    assert not (tmp_path / "ran").exists()


def local_folder(folder: Path, **preprocess: Any) -> torch.nn.Module:
    model = tiny_clip(4)
    folder.mkdir()
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SIZES, "preprocess_cfg": cfg | preprocess}))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model


def test_a_local_folder_is_loaded_with_its_preprocessing(tmp_path: Path) -> None:
    model = local_folder(tmp_path / "my-clip")
    backbone = load(str(tmp_path / "my-clip"))
    assert backbone.fingerprint == fingerprint_of(model)
    assert backbone.preprocessing == Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (backbone.name, backbone.weights) == (str(tmp_path / "my-clip"), "local")


def test_another_resolution_interpolates_positions(tmp_path: Path) -> None:
    local_folder(tmp_path / "my-clip")
    backbone = load(str(tmp_path / "my-clip"), resolution=48)
    assert backbone.preprocessing.size == 48
    assert backbone.visual.positional_embedding.shape == (1 + 6 * 6, 32)
    pictures = torch.randn(2, 3, 48, 48)
    assert torch.allclose(encode_image(backbone, pictures), backbone.model.encode_image(pictures), atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "open_clip_config.json").unlink(), "config file missing"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{"), "Could not load valid config"),
        (lambda folder: (folder / "model.safetensors").unlink(), "could not be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"?"), "could not be loaded"),
    ],
)
def test_a_spoilt_local_folder_is_refused(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    local_folder(tmp_path / "my-clip")
    spoil(tmp_path / "my-clip")
    with pytest.raises(MmlopError, match=reason) as error:
        load(str(tmp_path / "my-clip"))
    assert "my-clip" in str(error.value)


@pytest.mark.parametrize("preprocess", [{"resize_mode": "squash"}, {"interpolation": "bilinear"}])
def test_other_preprocessing_is_refused(tmp_path: Path, preprocess: dict[str, str]) -> None:
    local_folder(tmp_path / "my-clip", **preprocess)
    with pytest.raises(MmlopError, match="only square, bicubic, centre-cropped"):
        load(str(tmp_path / "my-clip"))


# Text and pictures


def test_tokens_are_open_clips_own_without_padding(tiny: Backbone) -> None:
    names = ["cat", "Boeing 747-400", "Größe & co", ""]
    theirs = SimpleTokenizer()(names)
    ours = tiny.tokenize(names)
    assert torch.equal(ours, theirs[:, : ours.shape[1]])
    assert not theirs[:, ours.shape[1] :].any()
    assert ours[:, -1].any()  # no longer than the longest needs


def test_a_text_that_is_too_long_is_named() -> None:
    backbone = wrap(tiny_clip(text_context=16), "tiny", "random")
    fits = "cat " * 10  # 12 tokens with SOS and EOT
    assert backbone.tokenize([fits], prompts=4).shape == (1, 12)
    with pytest.raises(MmlopError, match=r"'cat cat .*' has 12 tokens and 5 prompt tokens come on top, but tiny reads 16"):
        backbone.tokenize(["dog", fits], prompts=5)


def test_unknown_words_are_refused_by_name() -> None:
    known = frozenset(SimpleTokenizer()(["a photo of a red square."]).flatten().tolist())
    backbone = wrap(tiny_clip(), "small-world", "random", known_tokens=known)
    assert backbone.tokenize(["a red square."]).shape == (1, 6)
    with pytest.raises(MmlopError, match=r"small-world backbone never saw the word 'violin' \(in 'a red violin\.'\)"):
        backbone.tokenize(["a red square.", "a red violin."])


def test_pictures_are_normalised_channel_by_channel() -> None:
    model = tiny_clip()
    open_clip.model.set_model_preprocess_cfg(model, {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)})
    pictures = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = wrap(model, "tiny", "random").normalise(pictures)
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), strict=True)):
        expected = (pictures[:, channel].double() / 255 - mean) / std
        assert torch.allclose(found[:, channel].double(), expected, atol=1e-6)
    assert found.dtype == torch.float32
