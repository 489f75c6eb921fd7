"""From pictures of every kind to labels, and scores against the slow reference."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slow_clip
import torch
from conftest import tiny_clip
from make_adapter import CLASSES, TEMPLATES, make_adapter
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file
from test_backbone import SIZES

from mmlop import classifier as classifiers
from mmlop import config, features
from mmlop.backbone import Backbone, load, wrap
from mmlop.classifier import Classifier
from mmlop.data.pictures import prepare
from mmlop.errors import MmlopError
from mmlop.prompts import compose


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture(scope="module")
def classifier(backbone: Backbone) -> Classifier:
    return Classifier(make_adapter(backbone), backbone)


def picture(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def slow_logits(backbone: Backbone, classes: tuple[str, ...], images: list[Image.Image], **changes: Any) -> torch.Tensor:
    """tau f' w*^T from whole token rows and every row of every block."""
    adapter = make_adapter(backbone, **changes)
    vision, text = compose(adapter.factors)
    names = [name.replace("_", " ") for name in classes]

    def unit(x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    anchors = []
    for name in names:
        words = SimpleTokenizer()([template.replace("{}", name) for template in TEMPLATES])
        anchors.append(unit(unit(backbone.model.encode_text(words)).mean(dim=0)))  # type: ignore[operator]
    w = torch.stack(anchors)
    rows = slow_clip.with_placeholders(SimpleTokenizer()([f"{name}." for name in names])[:, :70], 3, 77)
    w_star = unit(slow_clip.encode_text(backbone, rows, text))
    if adapter.info.drift_correction and len(classes) > 1:
        w_star = unit(w_star - (w_star - w).mean(dim=0))
    prepared = torch.stack([prepare(image, 32) for image in images])
    f = unit(slow_clip.encode_image(backbone, backbone.normalise(prepared), vision.expand(len(images), -1, -1, -1)))
    return backbone.logit_scale * f @ w_star.T


@pytest.mark.parametrize("drift_correction", [True, False])
@pytest.mark.parametrize("classes", [CLASSES, ("sea_horse", "rain", "cat", "a longer name of things"), ("cat",)])
def test_logits_equal_the_slow_reference(backbone: Backbone, classes: tuple[str, ...], drift_correction: bool) -> None:
    images = [picture(seed) for seed in range(4)]
    classifier = Classifier(make_adapter(backbone, drift_correction=drift_correction), backbone)
    prepared = torch.stack([prepare(image, 32) for image in images])
    found = classifier.logits(prepared, classes)
    assert torch.allclose(found, slow_logits(backbone, classes, images, drift_correction=drift_correction), atol=1e-4)


def test_every_kind_of_picture_gives_the_same_answer(classifier: Classifier, tmp_path: Path) -> None:
    image = picture(0)
    file = tmp_path / "one.png"
    image.save(file)
    (expected,) = classifier.predict(image)
    for kind in (file, str(file), png(image), np.asarray(image), [image], (str(file),)):
        assert classifier.predict(kind) == [expected]  # type: ignore[arg-type]
    for prediction in classifier.predict([image, file, png(image), np.asarray(image)]):
        assert prediction.labels == expected.labels
        assert prediction.scores == pytest.approx(expected.scores, abs=1e-5)


def test_predictions_are_sorted_probabilities(classifier: Classifier) -> None:
    images = [picture(seed) for seed in range(6)]
    predictions = classifier.predict(images)
    logits = classifier.logits(torch.stack([prepare(image, 32) for image in images]))
    assert len(predictions) == 6
    for prediction, row in zip(predictions, logits.softmax(dim=1).tolist(), strict=True):
        assert sorted(prediction.labels) == sorted(CLASSES)
        assert sum(prediction.scores) == pytest.approx(1, abs=1e-5)
        assert list(prediction.scores) == sorted(prediction.scores, reverse=True)
        assert prediction.label == prediction.labels[0] == CLASSES[row.index(max(row))]
        assert dict(zip(prediction.labels, prediction.scores, strict=True)) == pytest.approx(
            dict(zip(CLASSES, row, strict=True)), abs=1e-6
        )


def test_many_pictures_are_as_one_by_one(classifier: Classifier) -> None:
    images = [picture(seed, 33 + seed, 64 - seed) for seed in range(7)]
    for together, image in zip(classifier.predict(images), images, strict=True):
        (alone,) = classifier.predict(image)
        assert together.labels == alone.labels
        assert together.scores == pytest.approx(alone.scores, abs=1e-5)


def test_other_class_names_and_their_order(classifier: Classifier) -> None:
    image = picture(1)
    names = ["bus", "violin", "rain", "cat"]
    (one,), (two,) = classifier.predict(image, names), classifier.predict(image, names[::-1])
    assert set(one.labels) == set(names)
    assert one.labels == two.labels
    assert one.scores == pytest.approx(two.scores, abs=1e-6)
    assert classifier.predict(image, ["cat"])[0] == type(one)(("cat",), (1.0,))


def test_with_drift_correction_scores_depend_on_the_candidates(backbone: Backbone) -> None:
    image = picture(2)
    prepared = prepare(image, 32)[None]
    for corrected in (True, False):
        classifier = Classifier(make_adapter(backbone, drift_correction=corrected), backbone)
        among_two = classifier.logits(prepared, ["cat", "dog"])[0]
        among_three = classifier.logits(prepared, ["cat", "dog", "violin"])[0, :2]
        assert torch.allclose(among_two, among_three, atol=1e-4) is not corrected


def test_underscores_are_spaces_but_names_come_back_as_given(classifier: Classifier) -> None:
    prepared = prepare(picture(3), 32)[None]
    one, two = (classifier.logits(prepared, names) for names in (["sea_horse", "cat"], ["sea horse", "cat"]))
    assert torch.equal(one, two)
    assert "sea_horse" in classifier.predict(picture(3))[0].labels


def test_nothing_to_do(classifier: Classifier) -> None:
    assert classifier.predict([]) == []
    with pytest.raises(MmlopError, match="no class to choose from"):
        classifier.predict(picture(0), [])


@pytest.mark.parametrize("data", [b"", b"not a picture", png(picture(0))[:200]])
def test_bytes_that_are_no_picture(classifier: Classifier, data: bytes) -> None:
    with pytest.raises(MmlopError, match=f"{len(data)} bytes were given that are no readable picture"):
        classifier.predict(data)


def test_files_that_are_no_picture_are_named(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(MmlopError, match=r"notes\.jpg is not a readable picture"):
        classifier.predict([picture(0), tmp_path / "notes.jpg"])
    with pytest.raises(MmlopError, match=r"missing\.jpg does not exist"):
        classifier.predict(str(tmp_path / "missing.jpg"))


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 0), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((2, 4, 4, 3))],
)
def test_arrays_that_are_no_picture(classifier: Classifier, array: np.ndarray) -> None:
    with pytest.raises(MmlopError, match=r"is no picture: give uint8 \[H, W, 3\]"):
        classifier.predict(array)


def test_a_class_name_that_is_too_long_is_named(classifier: Classifier) -> None:
    with pytest.raises(MmlopError, match=r"'a photo of a cat cat .* has .* tokens"):
        classifier.predict(picture(0), ["dog", "cat " * 80])


def test_an_adapter_of_another_backbone_is_refused(backbone: Backbone) -> None:
    with pytest.raises(MmlopError, match="was trained for tiny"):
        Classifier(make_adapter(backbone), wrap(tiny_clip(1), "tiny", "other"))


def test_loading_finds_a_local_backbone(tmp_path: Path) -> None:
    home = tmp_path / "clip"
    home.mkdir()
    (home / "open_clip_config.json").write_text(json.dumps({"model_cfg": SIZES}))
    save_file(tiny_clip().state_dict(), home / "model.safetensors")
    own = load(str(home))
    make_adapter(own).save(tmp_path / "adapter")
    image = picture(0)
    expected = Classifier(make_adapter(own), own).predict(image)
    assert Classifier.load(tmp_path / "adapter").predict(image) == expected
    save_file(tiny_clip(1).state_dict(), home / "model.safetensors")  # another CLIP in its place
    classifiers._backbone.cache_clear()
    classifiers._used.clear()
    with pytest.raises(MmlopError, match="was trained for"):
        Classifier.load(tmp_path / "adapter")


def test_one_candidate_as_a_string_and_a_candidate_named_twice(classifier: Classifier) -> None:
    picture = Image.new("RGB", (20, 20), "red")
    assert classifier.predict(picture, "zebra")[0].labels == ("zebra",)
    with pytest.raises(MmlopError, match="'cat' is named twice"):
        classifier.predict(picture, ["cat", "dog", "cat"])


def test_other_classes_leave_nothing_behind(classifier: Classifier, backbone: Backbone) -> None:
    """A service is sent any number of them."""
    kept = {file.name for file in (config.cache() / "texts").glob("*")}
    one = Image.new("RGB", (20, 20), "red")
    for number in range(features.SETS + 5):
        classifier.predict(one, [f"number {number}", "cat"])
    assert {file.name for file in (config.cache() / "texts").glob("*")} == kept
    assert len(features._frozen[backbone]) <= features.SETS
