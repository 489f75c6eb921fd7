"""Drift: the statistics against slow ones and by simulation, and streams of pictures through the shipped CLIP."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from said import Run, error
from scipy import stats
from streams import NAME, Watched, noisy

from mmlop import class_mix, config, drift, drift_check, drift_report
from mmlop.config import Drift
from mmlop.data.mini import benchmark
from mmlop.drift import Finding, Sample, compare, energy_test, shares_test
from mmlop.errors import MmlopError

pytest_plugins = ["cli_fixtures", "drift_fixtures"]

MEANS = np.array([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [0.0, 1.8, 0.0], [0.0, 0.0, 1.8]])  # three in four are told apart


def drawn(generator: np.random.Generator, counts: list[int], shift: float = 0.0) -> Sample:
    """Pictures of four classes that overlap, as a classifier that knows their means sees them."""
    truth = np.repeat(np.arange(4), counts)
    features = MEANS[truth] + generator.standard_normal((len(truth), 3)) + shift
    likely = np.exp(-0.5 * ((features[:, None] - MEANS) ** 2).sum(axis=2))
    likely /= likely.sum(axis=1, keepdims=True)
    return Sample(features, likely.max(axis=1), likely.argmax(axis=1).astype(str), truth.astype(str))


def slow_energy(x: np.ndarray, y: np.ndarray) -> float:
    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.sqrt(((one - other) ** 2).sum()) for one in a for other in b]))

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_the_energies_are_those_of_the_definition(n: int, m: int, d: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    both = generator.standard_normal((n + m, d))
    distances = np.sqrt(((both[:, None] - both) ** 2).sum(axis=2))
    chosen = np.stack([generator.permuted(np.arange(n + m) < n) for _ in range(3)])
    found, across = drift._energies(distances, chosen.astype(float), n, m)
    wanted = [n * m / (n + m) * slow_energy(both[mine], both[~mine]) for mine in chosen]
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    pairs = [np.linalg.norm(one - other) for one in both[chosen[0]] for other in both[~chosen[0]]]
    assert across == pytest.approx(n * m / (n + m) * 2 * np.mean(pairs))
    if d == 1:
        wanted = [n * m / (n + m) * stats.energy_distance(both[mine, 0], both[~mine, 0]) ** 2 for mine in chosen]
        np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_the_p_value_is_that_of_scipys_permutations() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.standard_normal(25), generator.standard_normal(40) + 0.6
    wanted = stats.permutation_test((x, y), stats.energy_distance, n_resamples=2000, alternative="greater", random_state=1)
    one = np.zeros(25), np.zeros(40)
    found = energy_test(x[:, None], y[:, None], *one)
    assert found.p_value == pytest.approx(wanted.pvalue, abs=0.02)
    assert 0.001 < found.p_value < 0.3


@pytest.mark.parametrize("dimensions", [1, 50])
@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_the_effect_is_the_shift_in_standard_deviations(dimensions: int, shift: float) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 800, dimensions))
    found = energy_test(x, y + shift, np.zeros(800), np.zeros(800))
    assert found.effect == pytest.approx(shift, rel=0.25)


def test_p_values_are_as_small_as_they_say_for_few_pictures_and_other_mixes_of_classes() -> None:
    """Features depend on the class alone: reference and logged pictures share the classes out differently."""
    p_values = []
    for seed in range(300):
        generator = np.random.default_rng(seed)
        of, other = np.repeat(np.arange(4), [3, 5, 5, 0]), np.repeat(np.arange(4), [20, 2, 9, 4])
        x, y = (5 * MEANS[labels] + generator.standard_normal((len(labels), 3)) for labels in (of, other))
        p_values.append(energy_test(x, y, of, other, seed).p_value)
    for level in (0.01, 0.05, 0.2, 0.5):
        allowed = stats.binom.ppf([0.0005, 0.9995], 300, level) / 300
        assert allowed[0] <= np.mean(np.array(p_values) < level) <= allowed[1]


def test_shares_are_compared_by_chi_square() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.choice(5, 150, p=[0.3, 0.2, 0.2, 0.2, 0.1]), generator.choice(5, 400)
    table = [[(labels == name).sum() for name in range(5)] for labels in (one, other)]
    wanted = stats.chi2_contingency(table)
    found = shares_test(one, other)
    assert found.p_value == pytest.approx(wanted.pvalue, abs=0.02)
    assert found.effect == pytest.approx(sum(abs(a / 150 - b / 400) for a, b in zip(*table, strict=True)) / 2)
    assert shares_test(one, one).p_value == 1.0


def test_the_mix_of_classes_is_found_from_predictions() -> None:
    generator = np.random.default_rng(0)
    reference, logged = drawn(generator, [500] * 4), drawn(generator, [100, 700, 0, 200])
    predicted = [(logged.labels == str(name)).mean() for name in range(4)]
    classes, mix = class_mix.mix_of(reference.truth, reference.labels, logged.labels)
    assert classes.tolist() == ["0", "1", "2", "3"]
    np.testing.assert_allclose(mix, [0.1, 0.7, 0.0, 0.2], atol=0.08)
    assert np.abs(np.array(predicted) - [0.1, 0.7, 0.0, 0.2]).max() > 0.1
    rows = class_mix.plausible(reference.truth, reference.labels, logged.labels)
    assert len(rows) == class_mix.MIXES
    for some in rows:
        assert len(set(some.tolist())) == len(some)
        shares = [(reference.truth[some] == str(name)).mean() for name in range(4)]
        np.testing.assert_allclose(shares, [0.1, 0.7, 0.0, 0.2], atol=0.12)
        assert len(some) > 500


def alarms(counts: list[int], matched: bool = True) -> int:
    """How many of 25 streams without drift are taken for drifted, at a level of 5 % and for any effect."""
    wanted, found = Drift(level=0.05, effect=0.0), 0
    with pytest.MonkeyPatch.context() as patch:
        if not matched:
            patch.setattr(drift, "MIX", 0.0)
        for seed in range(25):
            generator = np.random.default_rng(seed)
            found += compare(drawn(generator, [20] * 4), drawn(generator, counts), wanted).outcome == "drifted"
    return found


def test_neither_chance_nor_another_mix_of_classes_is_drift() -> None:
    assert alarms([50] * 4) <= 6
    assert alarms([240, 30, 15, 15]) <= 6
    assert alarms([150, 150, 0, 0]) <= 6
    assert alarms([150, 150, 0, 0], matched=False) > 10  # they are told apart by the mistakes that are not made there


def test_a_shift_is_found_whatever_the_mix_and_a_small_one_is_not_for_all_its_significance() -> None:
    generator = np.random.default_rng(0)
    for counts in ([50] * 4, [150, 150, 0, 0]):
        assert compare(drawn(generator, [20] * 4), drawn(generator, counts, 0.8), Drift()).outcome == "drifted"
    reference, logged = drawn(generator, [500] * 4), drawn(generator, [500] * 4, 0.12)
    slight = compare(reference, logged, Drift())
    assert slight.outcome == "steady"
    assert slight.features is not None
    assert slight.features.p_value < 0.005
    assert compare(reference, logged, Drift(effect=0.05)).outcome == "drifted"


def test_the_mix_of_classes_is_drift_where_it_is_said_to_be() -> None:
    generator = np.random.default_rng(0)
    reference, logged = drawn(generator, [20] * 4), drawn(generator, [290, 10, 0, 0])
    assert compare(reference, logged, Drift(pictures=10)).outcome == "steady"
    found = compare(reference, logged, Drift(shares=True))
    assert found.outcome == "drifted"
    assert found.reason.startswith("Shares of classes have drifted, 300 logged beside ")


def test_few_pictures_and_repeated_ones_tell_nothing() -> None:
    generator = np.random.default_rng(0)
    reference, logged = drawn(generator, [20] * 4), drawn(generator, [7, 7, 7, 7], 5.0)
    few = compare(reference, logged, Drift())
    assert (few.outcome, few.logged) == ("too_few", 28)
    assert "28 logged and 80 reference pictures" in few.reason
    again = compare(reference, logged.take(np.tile(np.arange(28), 30)), Drift())
    assert (again.outcome, again.logged, again.repeated) == ("too_few", 28, 28 * 29)
    nothing = logged.take(np.array([], dtype=int))
    for one, other in ((reference, nothing), (nothing, reference)):
        assert compare(one, other, Drift()).outcome == "too_few"
    unseen = replace(logged, labels=np.full(28, "other"))
    assert compare(reference, unseen, Drift(pictures=10)).outcome == "drifted"  # with no class in common


def test_no_all_clear_from_a_few_pictures_of_another_mix() -> None:
    """Of 80 pictures some 20 are of the class that is asked most: they may show drift, but not that there is none."""
    generator = np.random.default_rng(0)
    reference, logged = drawn(generator, [20] * 4), drawn(generator, [290, 10, 0, 0])
    found = compare(reference, logged, Drift())
    assert found.outcome == "too_few"
    assert found.reference < Drift().pictures
    assert found.shares is not None
    assert "of these mixes" in found.reason
    assert compare(reference, drawn(generator, [290, 10, 0, 0], 5.0), Drift()).outcome == "drifted"


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1203])
def test_each_picture_counts_once(count: int) -> None:
    generator = np.random.default_rng(count)
    some = drawn(generator, [count, 0, 0, 0])
    mixed = some.take(generator.integers(0, count, 3 * count))
    seen: set[bytes] = set()
    first = [place for place, row in enumerate(mixed.features) if row.tobytes() not in seen and not seen.add(row.tobytes())]
    assert np.array_equal(mixed.distinct().features, mixed.features[first])


def test_what_is_repeated_does_not_take_the_place_of_what_is_not() -> None:
    """Of 8000 rows all but 400 are a health check's."""
    generator = np.random.default_rng(0)
    others, check = drawn(generator, [100] * 4), drawn(generator, [1, 0, 0, 0])
    logged = Sample(
        np.concatenate([others.features, np.repeat(check.features, 7600, axis=0)]),
        np.concatenate([others.confidence, np.repeat(check.confidence, 7600)]),
        np.concatenate([others.labels, np.repeat(check.labels, 7600)]),
        np.concatenate([others.truth, np.repeat(check.truth, 7600)]),
    ).take(generator.permutation(8000))
    found = compare(drawn(generator, [40] * 4), logged, Drift())
    assert (found.logged, found.repeated) == (401, 7599)


def test_where_all_are_alike_there_is_no_effect() -> None:
    sure, names = np.ones((20, 1)), np.full(20, "one")
    assert energy_test(sure, sure, names, names) == Finding(1.0, 0.0)


@pytest.mark.parametrize(("key", "value"), [("since", "a week"), ("level", 0), ("effect", -1), ("schedule", "soon")])
def test_a_setting_that_cannot_be_is_one_sentence(watched: Watched, key: str, value: object) -> None:
    values = yaml.safe_load((watched.root / "params.yaml").read_text()) | {"drift": {key: value}}
    with pytest.raises(MmlopError, match=rf"params.yaml: drift\.{key} is {value!r}: "):
        config.parse(values, "params.yaml")


def test_the_same_pictures_give_the_same_answer() -> None:
    generator = np.random.default_rng(0)
    reference, logged = drawn(generator, [20] * 4), drawn(generator, [50, 10, 10, 10])
    assert compare(reference, logged, Drift()) == compare(reference, logged, Drift())


# Streams of pictures


GENERATOR = np.random.default_rng(0)
SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "noise": lambda picture: noisy(picture, GENERATOR, 90),
    "blur": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "dark": lambda picture: Image.eval(picture, lambda value: value // 3),
}


@pytest.fixture
def inside(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.chdir(watched.root)
    return watched


def test_an_unshifted_stream_is_steady(inside: Watched, tmp_path: Path) -> None:
    inside.serve(inside.pictures("test"), tmp_path)
    found = drift_check.check(str(inside.adapter), config.load(), tmp_path)
    assert (found.found.outcome, found.part, found.dataset) == ("steady", "val", NAME)
    assert (found.rows, found.found.logged, found.found.reference, found.others) == (200, 200, 160, 0)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shifted_stream_is_noticed(inside: Watched, tmp_path: Path, shift: str) -> None:
    inside.serve([SHIFTS[shift](picture) for picture in inside.pictures("test")], tmp_path)
    found = drift_check.check(str(inside.adapter), config.load(), tmp_path).found
    assert found.outcome == "drifted"
    assert found.features is not None
    assert found.features.p_value < 0.005


def test_pictures_of_other_classes_are_noticed(inside: Watched, tmp_path: Path) -> None:
    others = benchmark.render(benchmark.TASKS["mini_colours"], 0, {"train": 0, "val": 0, "test": 10})
    inside.serve([picture for _, _, picture in others], tmp_path)
    assert drift_check.check(str(inside.adapter), config.load(), tmp_path).found.outcome == "drifted"


def test_half_of_the_classes_are_no_drift(inside: Watched, tmp_path: Path) -> None:
    inside.serve(inside.pictures("test")[:100], tmp_path)
    params = config.load()
    few = params.model_copy(update={"drift": params.drift.model_copy(update={"pictures": 10})})
    found = drift_check.check(str(inside.adapter), few, tmp_path).found
    assert found.outcome == "steady"
    assert found.shares is not None
    assert found.shares.p_value < 0.05


def test_what_was_asked_of_other_classes_or_adapters_or_long_ago_is_left_out(inside: Watched, tmp_path: Path) -> None:
    pictures = inside.pictures("test")
    inside.serve(pictures[::2], tmp_path)
    inside.serve([noisy(picture, GENERATOR) for picture in pictures[::4]], tmp_path, ("a", "b"))
    found = drift_check.check(str(inside.adapter), config.load(), tmp_path)
    assert (found.rows, found.others, found.found.logged) == (150, 50, 100)
    assert "50 of them were asked to score other classes" in drift_report.twin(found)
    for file in tmp_path.iterdir():  # as another adapter's
        file.write_bytes(file.read_bytes())
    late = drift_check.check(str(inside.adapter), config.load(), tmp_path, since="1s")
    assert late.found.outcome in ("too_few", "steady")


def test_the_command_says_what_it_found_and_writes_a_page(inside: Watched, tmp_path: Path, mmlop: Run) -> None:
    inside.serve([SHIFTS["dark"](picture) for picture in inside.pictures("test")], tmp_path)
    said = mmlop("drift", inside.adapter, "--log", tmp_path)
    assert said.code == 0
    assert "have drifted, 200 logged beside 160 reference pictures (features: effect" in " ".join(said.out.split())
    assert mmlop("drift", inside.adapter, "--log", tmp_path, "--quiet", "--fail").code == 3
    found = json.loads(mmlop("drift", inside.adapter, "--log", tmp_path, "--json").out)
    assert (found["outcome"], found["rows"], found["part"]) == ("drifted", 200, "val")
    assert found["features"]["effect"] > 0.5
    assert {one["name"] for one in found["classes"]} <= set(benchmark.TASKS[NAME].classes)
    page = Path(found["report"])
    assert page == inside.root / "reports" / "drift" / f"{NAME}.html"
    html, text = page.read_text(), page.with_suffix(".md").read_text()
    assert html.count("<svg") >= 3
    assert "NaN" not in html
    assert "nan" not in re.sub(r"<style>.*</style>", "", html, flags=re.DOTALL)
    assert text.startswith(f"## {NAME}: drift\n")
    assert "| features |" in text


def test_too_few_is_no_error(inside: Watched, tmp_path: Path, mmlop: Run) -> None:
    inside.serve(inside.pictures("test")[:5], tmp_path)
    said = mmlop("drift", inside.adapter, "--log", tmp_path, "--fail")
    assert said.code == 0
    assert "Too few to tell: 5 logged" in said.out
    (tmp_path / "empty").mkdir()
    assert "0 logged" in mmlop("drift", inside.adapter, "--log", tmp_path / "empty").out


def test_mistakes_are_one_sentence(inside: Watched, tmp_path: Path, mmlop: Run) -> None:
    assert "give its folder with --log" in error(mmlop("drift", inside.adapter))
    assert "There is no prediction log at" in error(mmlop("drift", inside.adapter, "--log", tmp_path / "none"))
    assert "since is '7 days'" in error(mmlop("drift", inside.adapter, "--log", tmp_path, "--since", "7 days"))
    assert "is no adapter" in error(mmlop("drift", tmp_path / "adapter", "--log", tmp_path))


def test_without_validation_pictures_training_pictures_are_the_reference(watched: Watched) -> None:
    from mmlop.classifier import Classifier
    from mmlop.data import datasets
    from mmlop.data.manifest import Fetched

    data = datasets.fetched(NAME, config.load(watched.root / "params.yaml"), watched.root)
    rows = tuple(replace(one, part="train") for one in data.manifest.of("val"))
    part, reference = drift_check.reference_of(
        Classifier.load(watched.adapter), Fetched(replace(data.manifest, pictures=rows), data.folder)
    )
    assert (part, len(reference)) == ("train", 160)
    assert compare(reference, reference.take(np.arange(0, 160, 2)), Drift(), unseen=False).confidence is None


def test_names_of_services_and_data_sets_are_uris(watched: Watched) -> None:
    params = config.load(watched.root / "params.yaml")
    champion = f"models:/mmlop-{NAME}@champion"
    assert drift_check.uri_of(NAME, params) == champion
    assert drift_check.uri_of(f"mmlop-{NAME}", params) == champion
    assert drift_check.uri_of(f"mmlop-{NAME}/3", params) == f"models:/mmlop-{NAME}/3"
    assert drift_check.uri_of(f"mmlop-{NAME}@previous", params) == f"models:/mmlop-{NAME}@previous"
    assert drift_check.uri_of("models:/mmlop-x/1", params) == "models:/mmlop-x/1"
    assert drift_check.uri_of(str(watched.adapter), params) == str(watched.adapter)
