"""Means, intervals, paired differences and verdicts of a grid, against loops over plain numbers and known answers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t, wilcoxon

from mmlop import published
from mmlop.errors import MmlopError
from mmlop.evaluation import harmonic_mean
from mmlop.grids import comparison, paired, verdicts
from mmlop.grids.measurements import Measurement, read
from mmlop.page import grid_tables

Table = dict[str, dict[int, tuple[float, float | None]]]  # data set -> seed -> base, novel


def record(point: str, dataset: str, seeds: Mapping[int, Any], **other: Any) -> dict[str, Any]:
    """What a file holds; ``seeds`` have base and novel, or metrics."""

    def outcome(value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {"protocol": "base_to_novel", "shots": 16, "epochs": 8, "metrics": value, "shown": {}}
        base, novel = value
        known = {"base": base} if novel is None else {"base": base, "novel": novel, "hm": harmonic_mean(base, novel)}
        return outcome(known)

    fixed = {
        "format": 1,
        "key": "k",
        "part": "test",
        "settings": {},
        "grid": "g",
        "overrides": {"method": point},
        "method": point,
        "shots": 16,
    }
    costs = {"trainable": 100, "seconds": 2.0, "gigabytes": 0.5, "zero_shot": {"base": 50.0}}
    trained = {str(seed): [outcome(value)] for seed, value in seeds.items()}
    return fixed | costs | {"point": point, "dataset": dataset, "seeds": trained} | other


def measured(**points: Table) -> list[Measurement]:
    return [
        Measurement.model_validate(record(point, dataset, seeds))
        for point, table in points.items()
        for dataset, seeds in table.items()
    ]


def drawn(seed: int, datasets: int, seeds: int, novel: bool = True) -> Table:
    rng = random.Random(seed)
    return {
        f"d{d}": {s: (round(rng.uniform(5, 99), 4), round(rng.uniform(5, 99), 4) if novel else None) for s in range(seeds)}
        for d in range(datasets)
    }


def shifted(table: Table, by: float) -> Table:
    return {
        d: {s: (base + by, novel + by if novel is not None else None) for s, (base, novel) in row.items()}
        for d, row in table.items()
    }


def slow_scores(table: Table, datasets: list[str], seeds: list[int]) -> dict[str, list[float]]:
    """Per seed, over ``datasets`` with repeats."""
    found: dict[str, list[float]] = {"base": [], "novel": [], "hm": []}
    for seed in seeds:
        base = sum(table[d][seed][0] for d in datasets) / len(datasets)
        novel = sum(table[d][seed][1] or 0.0 for d in datasets) / len(datasets)
        for metric, value in (("base", base), ("novel", novel), ("hm", 2 * base * novel / (base + novel))):
            found[metric].append(value)
    return found


def approx(value: float | None) -> Any:
    return pytest.approx(value, abs=1.01e-4)


@pytest.mark.parametrize(("datasets", "seeds"), [(1, 2), (3, 3), (7, 5)])
def test_means_are_those_of_a_loop(datasets: int, seeds: int) -> None:
    table = drawn(1, datasets, seeds)
    found = comparison.means(measured(one=table))["one"]
    assert list(found) == ["base", "novel", "hm"]
    for metric, values in slow_scores(table, sorted(table), list(range(seeds))).items():
        low, high = t.interval(0.95, seeds - 1, loc=mean(values), scale=stdev(values) / math.sqrt(seeds))
        got = found[metric]
        assert (got.mean, got.low, got.high, got.std) == tuple(map(approx, (mean(values), low, high, stdev(values))))
        assert got.n == seeds
        assert got.mean == round(got.mean, 4)


def test_one_data_set_has_the_harmonic_mean_of_each_seed() -> None:
    table: Table = {"a": {1: (80.0, 20.0), 2: (50.0, 50.0)}, "b": {1: (60.0, 30.0), 2: (0.0, 0.0)}}
    found = comparison.per_dataset(measured(one=table))["one"]
    assert list(found) == ["a", "b"]
    assert found["a"]["hm"].mean == (32 + 50) / 2
    assert found["b"]["hm"].mean == (40 + 0) / 2


def test_what_not_all_points_have_is_left_out_and_said() -> None:
    table, other = drawn(1, 4, 3), drawn(2, 3, 2)
    del other["d1"]
    del table["d3"][0]  # a data set that lacks one of the seeds
    other["d3"] = {0: (1.0, 1.0), 1: (1.0, 1.0)}
    both = measured(one=table, two=other)
    shared = comparison.common(both)
    assert shared == comparison.Common(("d0", "d2"), (0, 1), {"d1": ("two",), "d3": ("one",)})
    expected = {d: {s: table[d][s] for s in (0, 1)} for d in ("d0", "d2")}
    assert comparison.means(both)["one"] == comparison.means(measured(one=expected))["one"]
    assert comparison.means(both)["two"]["base"].n == 2
    assert set(comparison.per_dataset(both)["one"]) == {"d0", "d1", "d2", "d3"}


def test_nothing_in_common_gives_nothing() -> None:
    apart = measured(mmlop={"a": {1: (50.0, 50.0)}}, two={"b": {1: (50.0, 50.0)}})
    assert not any(of(apart) for of in (comparison.means, paired.paired, comparison.costs, comparison.trade_off))
    assert comparison.common(apart).left_out == {"a": ("two",), "b": ("mmlop",)}
    assert comparison.common(measured(one={"a": {1: (5.0, 5.0)}}, two={"a": {2: (5.0, 5.0)}})).datasets == ()
    assert [goal.met for goal in verdicts.goals(apart)] == [None] * 7
    assert not any(of([]) for of in (comparison.means, comparison.curve, comparison.per_dataset))


def test_a_method_without_novel_classes_has_base_alone() -> None:
    both = measured(mmlop=drawn(1, 3, 3), linear_probe=drawn(2, 3, 3, novel=False))
    assert list(comparison.means(both)["linear_probe"]) == ["base"]
    assert list(paired.paired(both)["linear_probe"]) == ["base"]
    size = next(size for size in comparison.trade_off(both) if size.point == "linear_probe")
    assert (size.novel, size.hm) == (None, None)
    assert size.base is not None


def test_one_seed_has_no_interval_over_seeds() -> None:
    one = comparison.means(measured(one=drawn(1, 3, 1)))["one"]["hm"]
    assert (one.low, one.high, one.std, one.n) == (None, None, None, 1)
    over_datasets = paired.paired(measured(mmlop=drawn(1, 3, 1), two=drawn(2, 3, 1)))["two"]["hm"]
    assert (over_datasets.seeds_low, over_datasets.seeds_high, over_datasets.seeds) == (None, None, 1)
    assert over_datasets.low is not None
    single = paired.paired(measured(mmlop=drawn(1, 1, 1), two=drawn(2, 1, 1)))["two"]["hm"]
    assert (single.low, single.seeds_low, single.clear) == (None, None, False)


@pytest.mark.parametrize(("datasets", "seeds"), [(2, 3), (7, 3), (5, 1)])
def test_differences_and_bootstrap_are_those_of_a_loop(datasets: int, seeds: int) -> None:
    """The same draws, resampled one by one in plain Python."""
    ours, theirs, draws = drawn(1, datasets, seeds), drawn(2, datasets, seeds), 300
    found = paired.paired(measured(mmlop=ours, two=theirs), draws=draws, seed=4)["two"]
    by_dataset, by_seed = paired._resamples(datasets, seeds, draws, 4)
    names, numbers = sorted(ours), list(range(seeds))

    def repeated(things: list[Any], weights: Any) -> list[Any]:
        return [thing for thing, weight in zip(things, weights, strict=True) for _ in range(round(weight * len(things)))]

    values: dict[str, list[float]] = {"base": [], "novel": [], "hm": []}
    for row, column in zip(by_dataset, by_seed, strict=True):
        chosen = repeated(names, row), repeated(numbers, column)
        assert (len(chosen[0]), len(chosen[1])) == (datasets, seeds)
        mine, other = slow_scores(ours, *chosen), slow_scores(theirs, *chosen)
        for metric, resampled in values.items():
            resampled.append(mean(mine[metric]) - mean(other[metric]))
    tail = paired._tail(datasets)
    for metric, resampled in values.items():
        mine, other = slow_scores(ours, names, numbers)[metric], slow_scores(theirs, names, numbers)[metric]
        gaps = [a - b for a, b in zip(mine, other, strict=True)]
        got = found[metric]
        assert got.difference == approx(mean(gaps))
        assert (got.low, got.high) == tuple(map(approx, np.quantile(resampled, [tail, 1 - tail])))
        if seeds > 1:
            half = t.ppf(0.975, seeds - 1) * stdev(gaps) / math.sqrt(seeds)
            assert (got.seeds_low, got.seeds_high) == (approx(mean(gaps) - half), approx(mean(gaps) + half))


def test_the_bootstrap_draws_with_replacement_and_locally() -> None:
    by_dataset, by_seed = paired._resamples(4, 3, 20_000, 0)
    assert np.allclose(by_dataset.sum(axis=1), 1)
    assert np.allclose(by_dataset.mean(axis=0), 1 / 4, atol=0.005)
    assert np.allclose((4 * by_dataset).var(axis=0), 1 - 1 / 4, atol=0.03)  # binomial(4, 1/4)
    assert np.allclose((3 * by_seed).var(axis=0), 1 - 1 / 3, atol=0.03)
    assert abs(np.corrcoef(by_dataset[:, 0], by_seed[:, 0])[0, 1]) < 0.03
    assert (paired._resamples(4, 3, 10, 0)[0] == by_dataset[:10]).all()
    assert (paired._resamples(4, 3, 10, 1)[0] != by_dataset[:10]).any()


@pytest.mark.parametrize("count", [2, 3, 7, 11])
def test_the_moved_tails_are_those_of_student(count: int) -> None:
    """Means of resamples spread as ``std sqrt((n - 1) / n) / sqrt(n)``; the ends are to be at ``t std / sqrt(n)``."""
    ends = -norm.ppf(paired._tail(count)) * math.sqrt((count - 1) / count)
    assert ends == pytest.approx(t.ppf(0.975, count - 1))


def test_the_main_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Seven data sets and three seeds of normal effects; the t interval over seeds covers it in two cases of three."""
    rng, covered, trials = np.random.default_rng(0), 0, 300
    level = {f"d{d}": dict.fromkeys(range(3), (50.0, 50.0)) for d in range(7)}
    for _ in range(trials):
        effect, noise = rng.normal(size=(7, 1)), rng.normal(size=(7, 3)) / 2
        table: Table = {f"d{d}": {s: (50 + (effect[d, 0] + noise[d, s]), 50.0) for s in range(3)} for d in range(7)}
        found = paired.paired(measured(mmlop=table, two=level), draws=1000)["two"]["base"]
        covered += (found.low or 0) <= 0 <= (found.high or 0)
    assert 0.92 <= covered / trials <= 0.99


def test_identical_points_differ_by_nothing() -> None:
    found = paired.paired(measured(mmlop=drawn(1, 7, 3), two=drawn(1, 7, 3)))["two"]
    for one in found.values():
        assert (one.difference, one.low, one.high, one.seeds_low, one.seeds_high) == (0, 0, 0, 0, 0)
        assert (one.won, one.tied, one.lost, one.p_value, one.clear) == (0, 7, 0, 1, False)


def test_a_constant_shift_is_found_exactly() -> None:
    table = drawn(1, 7, 3)
    found = paired.paired(measured(mmlop=shifted(table, 0.5), two=table))["two"]
    for metric in ("base", "novel"):
        one = found[metric]
        assert (one.difference, one.low, one.high, one.seeds_low, one.seeds_high) == (0.5,) * 5
        assert (one.won, one.tied, one.lost, one.datasets, one.seeds, one.clear) == (7, 0, 0, 7, 3, True)
        assert one.p_value == 2 / 2**7


def test_a_lower_calibration_error_wins() -> None:
    files = [
        Measurement.model_validate(record(point, f"d{d}", {1: {"base": 50.0, "ece_base": error}}))
        for point, error in (("mmlop", 2.0), ("two", 5.0))
        for d in range(3)
    ]
    found = paired.paired(files)["two"]["ece_base"]
    assert (found.difference, found.won, found.lost) == (-3, 3, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=6, max_size=9))
def test_signed_rank_counts_all_signs(differences: list[int]) -> None:
    """Among all signs that the same sizes could have had, how many are as far from the middle?"""
    sizes = [abs(d) for d in differences if d]
    ranks = [mean(place + 1 for place, other in enumerate(sorted(sizes)) if other == size) for size in sizes]
    signs = [1 if d > 0 else -1 for d in differences if d]
    observed = abs(sum(sign * rank for sign, rank in zip(signs, ranks, strict=True)))
    sums = [abs(sum(s * r for s, r in zip(flip, ranks, strict=True))) for flip in product((1, -1), repeat=len(sizes))]
    assert paired._signed_rank(np.array(differences, float)) == sum(one >= observed for one in sums) / len(sums)


def test_signed_rank_is_that_of_scipy_and_silent_on_few() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1, 11)
    assert paired._signed_rank(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)
    assert paired._signed_rank(differences[:5]) is None


tables = st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 7), st.integers(1, 4))


@settings(max_examples=25, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_turned_round_every_difference_changes_sign(example: tuple[int, int, int, int], shuffle: random.Random) -> None:
    first, second, datasets, seeds = example
    files = measured(one=drawn(first, datasets, seeds), two=drawn(second, datasets, seeds))
    forth = paired.paired(files, "one", draws=200)["two"]
    shuffle.shuffle(files)
    back = paired.paired(files, "two", draws=200)["one"]
    assert list(forth) == list(back) == ["base", "novel", "hm"]
    for metric, one in forth.items():
        other = back[metric]
        assert one.difference == approx(-other.difference)
        for low, high in ((one.low, other.high), (one.seeds_low, other.seeds_high)):
            assert (low is None) == (high is None)
            assert low is None or high is None or low == approx(-high)
        assert (one.won, one.tied, one.lost, one.p_value) == (other.lost, other.tied, other.won, other.p_value)
        assert one.difference == approx(
            comparison.means(files)["one"][metric].mean - comparison.means(files)["two"][metric].mean
        )


@settings(max_examples=25, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_matter(example: tuple[int, int, int, int], shuffle: random.Random) -> None:
    first, second, datasets, seeds = example
    files = measured(mmlop=drawn(first, datasets, seeds), coop=drawn(second, datasets, seeds))
    mixed = list(files)
    shuffle.shuffle(mixed)
    for of in (comparison.means, comparison.common, comparison.costs, comparison.per_dataset, verdicts.goals):
        assert of(mixed) == of(files)
    assert paired.paired(mixed, draws=50) == paired.paired(files, draws=50)


def test_a_reference_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(MmlopError, match=r"^There is no point mmlop to compare with, only: mmlp, coop\.$"):
        paired.paired(measured(coop=drawn(1, 2, 2), mmlp=drawn(1, 2, 2)))


def levels(**points: tuple[float, float]) -> list[Measurement]:
    return measured(**{point: {f"d{d}": dict.fromkeys((1, 2), value) for d in (1, 2)} for point, value in points.items()})


def test_goals_are_met_at_their_bounds_and_not_beyond() -> None:
    files = levels(mmlop=(70, 70), coop=(69.9, 69.9), ivlp=(70, 70), promptsrc=(70.5, 70.5), maple=(70.6, 70.6))
    above_coop, _, above_ivlp, _, near_promptsrc, near_best, novel = verdicts.goals(files)
    assert (above_coop.met, above_ivlp.met, near_promptsrc.met, near_best.met, novel.met) == (
        True,
        False,
        True,
        False,
        False,
    )
    assert (near_best.other, near_best.theirs, novel.other, novel.theirs) == ("maple", 70.6, "promptsrc", 70.5)
    assert above_coop.difference is not None
    assert (above_coop.ours, above_coop.difference.difference, above_coop.difference.clear) == (70, 0.1, True)


def test_goals_leave_out_zero_shot_where_they_should_and_say_what_was_not_measured() -> None:
    files = levels(mmlop=(70, 70), zero_shot=(60, 90), coop=(80, 71), kgcoop=(60, 65), tip_adapter=(50, 70.5))
    untrained = ("zero_shot", "tip_adapter")
    files = [one.model_copy(update={"trainable": 0}) if one.point in untrained else one for one in files]
    above_coop, _, above_ivlp, _, near_promptsrc, near_best, novel = verdicts.goals(files)
    assert (above_ivlp.met, above_ivlp.theirs, near_promptsrc.met, near_promptsrc.difference) == (None, None, None, None)
    assert (near_best.other, near_best.met, above_coop.met) == ("coop", False, False)
    assert (novel.other, novel.met) == ("tip_adapter", False)  # CoOp is above it too; zero-shot's 90 is not counted


def test_signs() -> None:
    noisy = {f"d{d}": dict.fromkeys((1, 2), (60.0, 60.0 + (-1) ** d)) for d in range(4)}
    files = measured(full={d: dict.fromkeys((1, 2), (60.0, 60.0)) for d in noisy}, noisy=noisy)
    files += measured(worse={d: dict.fromkeys((1, 2), (61.0, 58.0)) for d in noisy})
    steps = [
        verdicts.Step("a", "full", "worse", {"novel": 0.4, "base": 0.1}),
        verdicts.Step("b", "full", "noisy", {"novel": 0.4}),
        verdicts.Step("c", "full", "absent", {"hm": 0.4}),
    ]
    rows = {(row.name, row.metric): row for row in verdicts.signs(files, steps)}
    assert list(rows) == list(product("abc", ("hm", "novel", "base")))
    assert [rows["a", metric].verdict for metric in ("hm", "novel", "base")] == [None, "agrees", "disagrees"]
    assert (rows["b", "novel"].verdict, rows["c", "hm"].verdict) == ("within noise", "not measured")
    assert (rows["c", "novel"].verdict, rows["c", "hm"].here, rows["a", "novel"].published) == (None, None, 0.4)
    here = rows["a", "novel"].here
    assert here is not None
    assert here.difference == 2


def test_published_changes_are_those_of_the_published_rows() -> None:
    found = published.load().ablations
    parts, ranks = [row.hm for row in found["components"].rows], {row.name: row.novel for row in found["rank"].rows}
    changes = [{"hm": pytest.approx(after - before)} for before, after in pairwise(parts)]
    changes += [{"novel": pytest.approx(ranks["1"] - ranks[rank])} for rank in ("2", "4")]
    assert list(verdicts.PUBLISHED.values()) == changes


def test_points_are_found_by_their_overrides() -> None:
    given = {"mmlop": {"method": "mmlop"}, "no drift": {"loss.drift_correction": False}, "coop": {"method": "coop"}}
    files = of_points(**given)
    assert verdicts.find(files, {}) == "mmlop"
    assert verdicts.find(files, {"method": "mmlop", "loss.drift_correction": False}) == "no drift"
    assert verdicts.find(files, {"method": "coop"}) == "coop"
    assert verdicts.find(files, {"loss.text": 0}) is None


def of_points(*given: dict[str, Any], **labels: dict[str, Any]) -> list[Measurement]:
    named = [(f"p{place}", one) for place, one in enumerate(given)] + list(labels.items())
    rows = [record(p, "d", {1: (1, 1)}, overrides=one, method=one.get("method", "mmlop")) for p, one in named]
    return [Measurement.model_validate(row) for row in rows]


def test_the_reference_is_mmlop_or_what_sets_no_more_than_all_do() -> None:
    longer, untied = {"train.epochs": 32}, {"loss.text": 0}
    assert verdicts.reference(of_points({"method": "coop"}, {})) == "p1"
    assert verdicts.reference(of_points({"method": "coop"} | longer, longer, longer | untied)) == "p1"
    assert verdicts.reference(of_points({"method": "coop"} | longer, {"method": "mmlop"} | longer)) == "p1"
    assert verdicts.reference(of_points({}, mmlop={"method": "mmlop"} | longer)) == "mmlop"
    assert verdicts.reference(of_points(longer, longer | {"loss.text": 1})) == "p0"
    assert verdicts.reference(of_points({"method": "coop"}, {"method": "coop"} | untied)) is None
    assert verdicts.reference(of_points(untied, longer)) is None
    assert verdicts.reference(of_points(untied)) is None  # with a single point nothing is shared
    by_set = [one.model_copy(update={"method": "coop"}) for one in of_points({}, untied, mmlop={"loss.text": 1})]
    assert verdicts.reference(by_set) is None  # the grid sets another method for all of them


def test_ranks_are_compared_at_four_tokens() -> None:
    at = {(n, r): {"prompts.tokens": n, "prompts.rank": r} for n in (1, 2, 4, 8) for r in (1, 2, 4, 8) if r <= n}
    found = of_points(**{f"tokens={n}, rank={r}": one for (n, r), one in at.items()})
    steps = [(step.name, step.point, step.without) for step in grid_tables._steps(found)]
    assert steps == [
        ("rank 1 instead of 2", "tokens=4, rank=1", "tokens=4, rank=2"),
        ("rank 1 instead of 4", "tokens=4, rank=1", "tokens=4, rank=4"),
    ]


def test_curves_over_shots() -> None:
    def few(shots: int, accuracy: float) -> dict[str, Any]:
        return {"protocol": "few_shot", "shots": shots, "epochs": 8, "metrics": {"accuracy": accuracy}}

    for_all = {"1": [few(16, 70), few(1, 50)], "2": [few(1, 52), few(16, 72)]}
    files = [Measurement.model_validate(record("coop", d, {}) | {"seeds": for_all}) for d in ("a", "b")]
    line = comparison.curve(files)["coop"]
    assert [(shots, one.mean, one.n) for shots, one in line] == [(1, 51, 2), (16, 71, 2)]
    assert comparison.curve(files, "hm") == {}
    assert comparison.means(files, "few_shot")["coop"]["accuracy"].mean == 71  # at its own 16 shots
    assert list(comparison.costs(files)) == []
    assert list(comparison.costs(files, "few_shot")) == ["coop"]
    assert comparison.trade_off(files) == []
    (size,) = comparison.trade_off(files, "few_shot")
    assert (size.point, size.hm, size.accuracy.mean if size.accuracy else None) == ("coop", None, 71)

    points = [(f"shots={shots}{rest}", shots) for shots in (16, 2) for rest in ("", ", rank=2")]
    files = []
    for point, shots in points:
        one = record(point, "a", {1: (40.0 + shots, 50.0)}, method="mmlop", shots=shots)
        one["seeds"]["1"][0]["shots"] = shots
        files.append(Measurement.model_validate(one))
    found = comparison.curve(files, "base")
    assert {series: [(shots, one.mean) for shots, one in line] for series, line in found.items()} == {
        "mmlop": [(2, 42), (16, 56)],
        "rank=2": [(2, 42), (16, 56)],
    }


def test_sizes_and_costs_are_of_the_common_data_sets() -> None:
    seeds = {1: (50.0, 50.0)}
    sizes = {("big", "a"): (300, 8.0, 1.0), ("big", "b"): (100, 4.0, None), ("big", "c"): (1, 99.0, 9.0)}
    sizes |= {("small", "a"): (10, 1.0, None), ("small", "b"): (10, 2.0, None)}
    files = [
        Measurement.model_validate(record(point, dataset, seeds, trainable=n, seconds=s, gigabytes=g))
        for (point, dataset), (n, s, g) in sizes.items()
    ]
    assert [(one.point, one.trainable) for one in comparison.trade_off(files)] == [("small", 10), ("big", 200)]
    assert comparison.costs(files) == {"big": (6, 1), "small": (1.5, None)}


def write(folder: Path, one: dict[str, Any], name: str | None = None) -> Path:
    file = folder / (name or one["point"]) / f"{one['dataset']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(one))
    return file


def test_reading_sorts_or_keeps_the_order_given(tmp_path: Path) -> None:
    for point, dataset in product(("rank=10", "rank=2", "coop"), "ba"):
        write(tmp_path, record(point, dataset, {3: (50.0, 40.0)}))
    files = read(tmp_path)
    assert [(one.point, one.dataset) for one in files] == list(product(("coop", "rank=2", "rank=10"), "ab"))
    assert files[0].seeds[3][0].metrics["base"] == 50
    assert [one.point for one in read(tmp_path, ["rank=10", "absent", "coop"])] == ["rank=10"] * 2 + ["coop"] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:40], "Invalid JSON"),
        (lambda text: text.replace('"seconds": 2.0', '"seconds": "long"'), "seconds: Input should be a valid number"),
        (
            lambda text: text.replace('"base": 50.25', '"base": NaN'),
            r"seeds\.1\.0\.metrics\.base: Input should be a finite",
        ),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format: Input should be 1"),
        (lambda text: text.replace('"point"', '"pint"'), "point: Field required"),
        (lambda text: "", "Invalid JSON"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, change: Any, said: str) -> None:
    file = write(tmp_path, record("one", "a", {1: (50.25, 40.0)}))
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    with pytest.raises(
        MmlopError, match=rf"one/a\.json is damaged \({said}.*\): remove it and run `mmlop benchmark` again\.$"
    ):
        read(tmp_path)


def test_reading_nothing_or_twice_the_same_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"^There are no measurements in .*family: run `mmlop benchmark family` first\.$"):
        read(tmp_path / "family")
    for name in ("one", "copy"):
        write(tmp_path, record("one", "a", {1: (50.0, 40.0)}), name)
    with pytest.raises(MmlopError, match=r"are both of one on a: remove one of them\.$"):
        read(tmp_path)
