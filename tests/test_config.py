"""params.yaml: what is valid, and the sentence for everything that is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_clip

from mmlop import config, configured, methods
from mmlop.backbone import wrap
from mmlop.data import templates
from mmlop.errors import MmlopError
from mmlop.prompts import PromptShape

REPOSITORY = Path(__file__).parent.parent
PROFILE = {
    "architecture": "mini",
    "weights": None,
    "resolution": None,
    "precision": "fp32",
    "templates": "mini",
    "prompts": {"tokens": 2, "rank": 1, "depth": 3},
    "train": {"epochs": 10, "learning_rate": 0.0025, "threads": 1},
}
REAL = {"architecture": "ViT-B-16-quickgelu", "weights": "openai"}
VALUES: dict[str, Any] = {
    "datasets": ["mini_pairs", "mini_digits"],
    "backbone": "mini",
    "device": "cpu",
    "data": {"seed": 0},
    "fewshot": {"shots": 16, "seeds": [1, 2, 3]},
    "prompts": {"tokens": None, "rank": None, "depth": None, "form": "shared"},
    "loss": {"text": 25.0, "image": 10.0, "logits": 1.0, "drift_correction": True},
    "train": {"epochs": None, "learning_rate": None, "batch_size": 4},
    "champion": {"level": 0.05, "pictures": 30},
    "run": {"retries": 1, "concurrency": 1},
    "profiles": {"mini": PROFILE, "vit-b-16": REAL},
}


def written(folder: Path, *changes: Callable[[dict[str, Any]], Any]) -> Path:
    values = copy.deepcopy(VALUES)
    for change in changes:
        change(values)
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        *parents, key = path.split(".")
        for parent in parents:
            values = values[parent]
        values[key] = value

    return change


def removing(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values.pop(key)


BARE = [removing(section) for section in ("prompts", "loss", "train")]


def test_the_repositorys_own_params_are_valid() -> None:
    params = config.load(REPOSITORY / "params.yaml")
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for backbone, method in product(params.profiles, methods.METHODS):
        found = config.parse(values | {"backbone": backbone, "method": method}, "here")
        assert templates.get(found.profile.templates), backbone


def test_the_defaults_are_the_papers(tmp_path: Path) -> None:
    sections = ("data", "fewshot", "prompts", "loss", "train", "champion", "run")
    params = config.load(written(tmp_path, setting("backbone", "vit-b-16"), *(removing(name) for name in sections)))
    prompts, loss, train = (params.effective[section] for section in ("prompts", "loss", "train"))
    assert prompts == {"encoders": "both", "form": "shared", "tokens": 4, "rank": 1, "depth": 9}
    assert [loss[key] for key in ("text", "image", "logits", "distance", "drift_correction")] == [25, 10, 1, "l1", True]
    assert [train[key] for key in ("epochs", "learning_rate", "batch_size")] == [30, 0.0025, 4]
    assert [train[key] for key in ("optimiser", "momentum", "weight_decay")] == ["sgd", 0.9, 5e-4]
    assert [train[key] for key in ("warmup_epochs", "warmup_rate", "crop", "flip")] == [1, 1e-5, 0.08, True]
    assert (params.fewshot.shots, params.fewshot.seeds, params.method) == (16, (1, 2, 3), "mmlop")


REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (setting("datsets", []), "there is no key 'datsets'; known keys: datasets, "),
    (setting("prompts.rnk", 2), "there is no key 'rnk' in prompts; known keys: rank, "),
    (setting("train.learning_rte", 2), "there is no key 'learning_rte' in train; known keys: learning_rate, "),
    (setting("profiles.mini.presicion", "fp32"), "there is no key 'presicion' in profiles.mini; known keys: precision, "),
    (setting("backbone", "vit-b16"), "backbone is 'vit-b16', but profiles holds vit-b-16, "),
    (setting("prompts.rank", 3), "prompts.rank is 3, but 2 prompt tokens have rank 1 to 2: lower prompts.rank or raise"),
    (setting("prompts.rank", 0), "prompts.rank is 0: input should be greater than or equal to 1"),
    (setting("fewshot.shots", 0), "fewshot.shots is 0: input should be greater than or equal to 1"),
    (setting("fewshot.shots", "many"), "fewshot.shots is 'many': input should be a valid integer"),
    (setting("fewshot.seeds", []), r"fewshot.seeds is \[\]: tuple should have at least 1 item"),
    (setting("fewshot.seeds", [1, 2, 1]), "fewshot.seeds lists a value twice: 1, 2, 1"),
    (setting("datasets", ["mini_pairs", "mini_pairs"]), "datasets lists a value twice: mini_pairs, mini_pairs"),
    (setting("datasets", []), r"datasets is \[\]: tuple should have at least 1 item"),
    (setting("datasets", "mini_pairs"), "datasets is 'mini_pairs': input should be a valid tuple"),
    (setting("train.learning_rate", -1), "train.learning_rate is -1: input should be greater than 0"),
    (setting("train.learning_rate", float("inf")), "train.learning_rate is inf: input should be a finite number"),
    (setting("loss.text", float("nan")), "loss.text is nan: input should be"),
    (setting("loss.text", -1), "loss.text is -1: input should be greater than or equal to 0"),
    (setting("train.momentum", 1), "train.momentum is 1: input should be less than 1"),
    (setting("train", None), "train is None: input should be a valid dictionary"),
    (
        setting("profiles.mini.precision", "fp64"),
        "profiles.mini.precision is 'fp64': input should be 'fp32', 'bf16' or 'fp16'",
    ),
    (setting("champion.level", 5), "champion.level is 5: input should be less than 1"),
    (setting("retrain", {"schedule": "soon"}), "retrain.schedule is 'soon': it needs a cron line"),
    (setting("retrain", {"schedules": {"mini_pairs": "0 25 * * *"}}), r"retrain.schedules.mini_pairs is '0 25 \* \* \*'"),
    (setting("retrain", {"schedules": {"dtd": "6h"}}), "retrain.schedules has 'dtd', which is not among datasets"),
    (setting("retrain", {"schedule": "0 0 3 * * *"}), "retrain.schedule is"),
    (setting("retrain", {"schedule": "99999999999d"}), "retrain.schedule is"),
    (setting("retrain", {"timezone": "Europe"}), "retrain.timezone is 'Europe'"),
    (setting("retrain", {"timezone": "Mars/Olympus"}), "retrain.timezone is 'Mars/Olympus': it needs the name"),
    (setting("retrain", {"catch_up": "some"}), "retrain.catch_up is 'some': input should be"),
    (setting("run.runner", "dask"), "runner: dask and the address of a scheduler"),
    (removing("datasets"), "the key 'datasets' is missing"),
    (removing("backbone"), "the key 'backbone' is missing"),
    (lambda values: values["profiles"]["mini"].pop("architecture"), "the key 'profiles.mini.architecture' is missing"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[sentence[:50] for _, sentence in REFUSED])
def test_a_bad_value_is_one_sentence(tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    file = written(tmp_path, change)
    with pytest.raises(MmlopError, match=sentence) as error:
        config.load(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"datasets: [", "is not YAML: while parsing"),
        (b"\xff\xfe\x00\x01", "is not YAML"),
        (b"", "holds no keys"),
        (b"- a\n- b\n", "holds no keys"),
        (b"just words", "holds no keys"),
        (b"a: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(MmlopError, match=sentence):
        config.load(tmp_path / "params.yaml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"params\.yaml does not exist: run mmlop inside a project"):
        config.load(tmp_path / "params.yaml")


def test_the_first_layer_that_has_a_value_decides(tmp_path: Path) -> None:
    """params.yaml, the profile's values for the method, the profile's, the method's published ones, common ones."""

    def rates(*changes: Callable[[dict[str, Any]], Any]) -> list[Any]:
        found = config.load(written(tmp_path, *changes)).effective["train"]
        return [found["epochs"], found["learning_rate"], found["momentum"]]

    published = [removing("prompts"), lambda values: values["profiles"]["mini"].pop("train")]
    assert rates(*published) == [30, 0.0025, 0.9]
    assert rates() == [10, 0.0025, 0.9]
    of_method = setting(
        "profiles.mini.methods", {"mmlop": {"train": {"epochs": 7, "momentum": 0.0}}, "coop": {"train": {"epochs": 5}}}
    )
    assert rates(of_method) == [7, 0.0025, 0.0]
    assert rates(of_method, setting("train.learning_rate", "1e-2")) == [7, 0.01, 0.0]  # YAML reads 1e-2 as a string
    assert rates(of_method, setting("train.epochs", 3)) == [3, 0.0025, 0.0]


def test_epochs_and_steps_stand_for_one_another(tmp_path: Path) -> None:
    lora = [setting("method", "clip_lora"), removing("prompts"), removing("loss")]

    def length(*changes: Callable[[dict[str, Any]], Any]) -> tuple[Any, Any]:
        found = config.load(written(tmp_path, *lora, *changes)).effective["train"]
        return found["epochs"], found["steps_per_shot"]

    assert length() == (10, None)  # the profile's epochs, not the published steps
    assert length(setting("backbone", "vit-b-16")) == (None, 500)
    assert length(setting("train.steps_per_shot", 9)) == (None, 9)
    with pytest.raises(MmlopError, match=r"yaml: train: epochs and steps_per_shot both say how long training is: give one"):
        length(setting("train", {"epochs": 3, "steps_per_shot": 9}))


def test_what_a_method_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"prompts\.form is given, but method zero_shot has no prompts: take it out"):
        config.load(written(tmp_path, setting("method", "zero_shot")))
    with pytest.raises(MmlopError, match=r"lora\.rank is given, but method mmlop has no lora"):
        config.load(written(tmp_path, setting("lora", {"rank": 2})))
    with pytest.raises(MmlopError, match="there is no method 'coopp': choose one of coop, "):
        config.load(written(tmp_path, setting("method", "coopp")))
    with pytest.raises(MmlopError, match="there is no method 'mmlp': choose one of mmlop, "):
        config.load(written(tmp_path, setting("profiles.mini.methods", {"mmlp": {}})))


def test_a_form_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    def refused(sentence: str, *changes: Callable[[dict[str, Any]], Any]) -> None:
        with pytest.raises(MmlopError, match=sentence):
            config.load(written(tmp_path, *changes))

    refused(r"prompts\.rank is given, but prompts\.form is full", setting("prompts", {"rank": 1, "form": "full"}))
    refused("prompts.form is shared, which ties", setting("prompts", {"encoders": "text"}))
    coop = [setting("backbone", "vit-b-16"), setting("method", "coop")]
    refused("prompts.form is low_rank, which needs a rank", *coop, setting("prompts", {"form": "low_rank"}))


@pytest.mark.parametrize("method", ["zero_shot", "linear_probe", "tip_adapter", "clip_lora"])
@pytest.mark.parametrize(
    "prompts", [{"form": "low_rank", "rank": 2}, {"form": "low_rank"}, {"form": "shared", "encoders": "text", "rank": 9}]
)
def test_a_profiles_prompts_are_for_methods_that_have_prompts(tmp_path: Path, method: str, prompts: dict[str, Any]) -> None:
    params = config.load(written(tmp_path, *BARE, setting("method", method), setting("profiles.mini.prompts", prompts)))
    assert configured.shape(params, wrap(tiny_clip(), "tiny", "random")) is None or method == "clip_lora"


# Settings that would be ignored

UNTRAINED = ("zero_shot", "linear_probe", "tip_adapter")
OF_LOSS = {"text": 0, "image": 1, "logits": 1, "distance": "l1", "anchor": "template", "drift_correction": False}
OF_TRAINING = {
    "epochs": 30,
    "steps_per_shot": 9,
    "learning_rate": 0.1,
    "optimiser": "sgd",
    "batch_size": 2,
    "warmup_epochs": 0,
    "warmup_rate": 0.1,
    "momentum": 0.5,
    "weight_decay": 0,
    "averaging": False,
    "compile": False,
}
OF_VIEWS = {"crop": 0.5, "flip": False, "views": 0}


@pytest.mark.parametrize("method", UNTRAINED)
def test_what_an_untrained_method_ignores_is_refused(tmp_path: Path, method: str) -> None:
    def refused(section: str, key: str, value: Any, why: str) -> None:
        file = written(tmp_path, *BARE, setting("method", method), setting(section, {key: value}))
        with pytest.raises(MmlopError) as error:
            config.load(file)
        why = f"{section}.{key} is given, but method {method} {why}: take it out"
        assert str(error.value) == f"{file}: {why}, or choose another method."
        of_method = {method: {section: {key: value}}}
        with pytest.raises(MmlopError) as error:
            config.load(written(tmp_path, *BARE, setting("profiles.mini.methods", of_method)))
        assert str(error.value) == f"{file}: profiles.mini.methods.{method}.{why}."

    for key, value in OF_LOSS.items():
        refused("loss", key, value, "has no loss")
    for key, value in (OF_TRAINING if method == "tip_adapter" else OF_TRAINING | OF_VIEWS).items():
        refused("train", key, value, "has no use for it")
    refused("prompts", "tokens", 2, "has no prompts")
    refused("lora", "rank", 2, "has no lora")


@pytest.mark.parametrize("method", methods.METHODS)
def test_what_a_method_uses_is_taken(tmp_path: Path, method: str) -> None:
    """At the top, and in what a profile says of the method."""
    kind = methods.get(method).kind
    loss, train = {}, {"threads": 1, "parallel_seeds": True}
    if kind in ("prompts", "lora"):
        loss, train = OF_LOSS, train | OF_TRAINING | OF_VIEWS
        del train["steps_per_shot"]
    if kind == "lora":
        del train["momentum"]
    if kind == "cache":
        train |= OF_VIEWS
    given = {"loss": loss, "train": train}
    params = config.load(written(tmp_path, *BARE, setting("method", method), *(setting(*one) for one in given.items())))
    assert {key: params.effective["train"][key] for key in train} == train
    params = config.load(
        written(tmp_path, *BARE, setting("method", method), setting("profiles.mini.methods", {method: given}))
    )
    assert {key: params.effective["train"][key] for key in train} == train


def test_sections_of_another_method_are_refused_in_a_profile(tmp_path: Path) -> None:
    """Also where the method is not the chosen one, and the profile not either."""
    file = written(tmp_path, setting("profiles.vit-b-16.methods", {"coop": {"lora": {"rank": 2}}}))
    with pytest.raises(MmlopError) as error:
        config.load(file)
    assert str(error.value) == (
        f"{file}: profiles.vit-b-16.methods.coop.lora.rank is given, but method coop has no lora: take it out."
    )


def test_a_profiles_general_settings_are_for_the_methods_that_have_them(tmp_path: Path) -> None:
    general = {"lora": {"rank": 1}, "loss": OF_LOSS, "train": OF_VIEWS | {"epochs": 1, "momentum": 0.5}}
    changes = [setting(f"profiles.mini.{section}", values) for section, values in general.items()]
    for method in (*UNTRAINED, "clip_lora"):
        no_warm_up = [setting("train", {"warmup_epochs": 0})] if method == "clip_lora" else []
        config.load(written(tmp_path, *BARE, setting("method", method), *changes, *no_warm_up))


@pytest.mark.parametrize("method", methods.METHODS)
def test_drift_is_corrected_only_where_something_was_trained(tmp_path: Path, method: str) -> None:
    drifting = setting("profiles.mini.loss", {"drift_correction": True})
    params = config.load(written(tmp_path, *BARE, setting("method", method), drifting))
    recipe = configured.recipe(params, wrap(tiny_clip(), "tiny", "random"))
    assert recipe.drift_correction == (method not in UNTRAINED)


def test_adamw_has_no_use_for_momentum(tmp_path: Path) -> None:
    sentence = r"train.momentum is given, but train.optimiser is adamw, which has no use for it: take it out, or choose sgd"
    for method in ("clip_lora", "mmlop"):
        adamw = setting("train", {"momentum": 0.5, "optimiser": None if method == "clip_lora" else "adamw"})
        with pytest.raises(MmlopError, match=sentence):
            config.load(written(tmp_path, *BARE, setting("method", method), adamw))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (True, "train.averaging is True: it needs shares of the epochs, {mean: 0.75, std: 0.05} for instance, or false."),
        (0.5, "train.averaging is 0.5: it needs shares of the epochs, {mean: 0.75, std: 0.05} for instance, or false."),
        ({"mean": 0.5}, "the key 'train.averaging.std' is missing."),
        ({}, "the key 'train.averaging.mean' is missing."),
        ({"mean": 0.5, "std": 0.1, "sd": 1}, "there is no key 'sd' in train.averaging; known keys: std, mean."),
        ({"mean": 15, "std": 1}, "train.averaging.mean is 15: input should be less than or equal to 1."),
        ({"mean": 0.5, "std": "wide"}, "train.averaging.std is 'wide': input should be a valid number, {}"),
    ],
)
def test_averaging_is_two_shares_or_none(tmp_path: Path, given: Any, sentence: str) -> None:
    for key in ("train", "profiles.mini.train"):
        file = written(tmp_path, setting(f"{key}.averaging", given))
        with pytest.raises(MmlopError) as error:
            config.load(file)
        expected = sentence.replace("train.averaging", f"{key}.averaging").removesuffix("{}")
        assert str(error.value).startswith(f"{file}: {expected}")


def test_tokens_may_make_room_for_a_rank(tmp_path: Path) -> None:
    params = config.load(written(tmp_path, setting("prompts.rank", 5), setting("prompts.tokens", 6)))
    assert (params.effective["prompts"]["rank"], params.effective["prompts"]["tokens"]) == (5, 6)


def test_another_backbone_is_one_word(tmp_path: Path) -> None:
    params = config.load(written(tmp_path, setting("backbone", "vit-b-16")))
    assert params.effective["prompts"]["depth"] == 9
    assert params.resolved()["backbone"]["architecture"] == "ViT-B-16-quickgelu"


def test_prompts_deeper_than_the_model_are_refused(tmp_path: Path) -> None:
    tiny = wrap(tiny_clip(), "tiny", "random")
    params = config.load(written(tmp_path, setting("prompts.depth", 2)))
    shape = configured.shape(params, tiny)
    assert isinstance(shape, PromptShape)
    assert (shape.depth, shape.tokens, shape.rank, shape.vision_width, shape.text_width) == (2, 2, 1, 32, 32)
    with pytest.raises(MmlopError, match=r"prompts\.depth is 3, but tiny has 2 image and 2 text blocks: choose 1 to 2"):
        configured.shape(config.load(written(tmp_path, setting("prompts.depth", 3))), tiny)


def test_the_recipe_is_that_of_the_params_scaled_to_the_backbone(tmp_path: Path) -> None:
    tiny = wrap(tiny_clip(), "tiny", "random")
    params = config.load(written(tmp_path, setting("train.momentum", 0.5), setting("loss.drift_correction", False)))
    recipe = configured.recipe(params, tiny)
    assert (recipe.momentum, recipe.drift_correction, recipe.epochs) == (0.5, False, 10)
    factor = tiny.logit_scale / 100 * (16 / 512) ** 0.5
    assert recipe.consistency.text == pytest.approx(25 * factor)
    assert recipe.consistency.image == pytest.approx(10 * factor)
    assert recipe.consistency.logits == 1


def test_the_project_is_found_from_a_folder_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path.parent))  # in an experiment's copy of a project, this is the original
    written(tmp_path, setting("device", "cuda:1"))
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert config.root() == tmp_path
    assert config.load().device == "cuda:1"
    (below / "params.yaml").write_text("datasets: [")  # the nearest counts
    assert config.root() == below


def test_names_of_own_sources_fit_every_tool(tmp_path: Path) -> None:
    file = written(tmp_path, setting("sources", {"My Parts": {"folder": "photos"}}))
    with pytest.raises(MmlopError, match="sources has 'My Parts': a data set's name is small letters"):
        config.load(file)
    file = written(tmp_path, setting("sources", {"parts": {"folder": "photos", "template": "a photo"}}))
    with pytest.raises(MmlopError, match=r"sources.parts.template is 'a photo': it needs exactly one {}"):
        config.load(file)


def test_keys_of_a_source_and_of_a_profile_are_their_own(tmp_path: Path) -> None:
    file = written(tmp_path, setting("sources", {"parts": {"folder": "photos", "templte": "a {}."}}))
    with pytest.raises(MmlopError, match=r"no key 'templte' in sources.parts; known keys: template, "):
        config.load(file)
    file = written(tmp_path, setting("profiles.mini.train.epoch", 3))
    with pytest.raises(MmlopError, match=r"no key 'epoch' in profiles.mini.train; known keys: epochs, "):
        config.load(file)


def test_warm_up_must_leave_something_to_train(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"train.warmup_epochs is 3, which leaves nothing of 3 epochs"):
        config.load(written(tmp_path, setting("train.epochs", 3), setting("train.warmup_epochs", 3)))
