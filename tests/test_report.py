"""The report over data sets against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmlop import report, tables
from mmlop.config import Params
from mmlop.errors import MmlopError

Record = dict[str, Any]


def records(dataset: str, method: str, values: dict[str, list[float]]) -> list[Record]:
    """One value per seed; zero-shot has no seeds."""
    seeds = [None] if method == "zero_shot" else [1, 2, 3]
    return [
        {"dataset": dataset, "method": method, "metric": metric, "seed": seed, "shots": 16, "value": value}
        for metric, per_seed in values.items()
        for seed, value in zip(seeds, per_seed, strict=False)
    ]


PETS = [
    *records("pets", "zero_shot", {"base": [60.0], "novel": [40.0], "hm": [48.0], "ece": [9.0]}),
    *records("pets", "mmlop", {"base": [70.0, 72.0, 74.0], "novel": [50.0, 50.0, 50.0], "hm": [58.0, 59.0, 60.0]}),
]
CARS = [
    *records("cars", "zero_shot", {"base": [20.0], "novel": [80.0], "hm": [32.0]}),
    *records("cars", "mmlop", {"base": [30.0, 28.0, 32.0], "novel": [70.0, 73.0, 76.0], "hm": [42.0, 40.0, 45.0]}),
]


def test_means_and_spreads_over_seeds() -> None:
    pets = report.summarise(PETS + CARS)["datasets"]["pets"]
    assert pets["zero_shot"] == {"base": 60.0, "novel": 40.0, "hm": 48.0}
    assert pets["mmlop"] == {
        "base": 72.0,
        "base_std": 2.0,
        "novel": 50.0,
        "novel_std": 0.0,
        "hm": 59.0,
        "hm_std": 1.0,
    }


def test_the_mean_over_data_sets_has_the_harmonic_mean_of_averages() -> None:
    mean = report.summarise(PETS + CARS)["mean"]
    assert mean["zero_shot"] == {"base": 40.0, "novel": 60.0, "hm": 48.0}  # 2 * 40 * 60 / 100, not the mean of 48 and 32
    ours = mean["mmlop"]
    assert (ours["base"], ours["novel"]) == (51.0, 61.5)  # means of 72 and 30, of 50 and 73
    assert ours["hm"] == pytest.approx(2 * 51 * 61.5 / 112.5, abs=1e-4)
    # seed by seed: bases 50, 50, 53 and novels 60, 61.5, 63
    assert ours["base_std"] == pytest.approx(3**0.5, abs=1e-4)
    assert ours["novel_std"] == pytest.approx(1.5, abs=1e-4)
    per_seed = [2 * b * n / (b + n) for b, n in ((50, 60), (50, 61.5), (53, 63))]
    centre = sum(per_seed) / 3
    assert ours["hm_std"] == pytest.approx((sum((x - centre) ** 2 for x in per_seed) / 2) ** 0.5, abs=1e-4)


def test_one_seed_has_no_spread() -> None:
    one = [record for record in PETS if record["seed"] in (None, 1)]
    assert report.summarise(one)["datasets"]["pets"]["mmlop"]["base_std"] == 0
    assert report.summarise(one)["mean"]["mmlop"]["hm_std"] == 0


def test_a_method_that_is_not_everywhere_has_no_mean() -> None:
    summary = report.summarise(PETS + [record for record in CARS if record["method"] == "zero_shot"])
    assert list(summary["mean"]) == ["zero_shot"]
    assert "mmlop" in summary["datasets"]["pets"]
    assert "mmlop" not in tables.to_markdown(summary)


def test_markdown_has_a_row_per_data_set_and_the_mean() -> None:
    markdown = tables.to_markdown(report.summarise(PETS + CARS))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    assert rows[0] == [
        "data set",
        "zero-shot base",
        "zero-shot novel",
        "zero-shot HM",
        "mmlop base",
        "mmlop novel",
        "mmlop HM",
        "mmlop gain in HM",
    ]
    assert rows[2] == ["pets", "60.0", "40.0", "48.0", "72.0 ± 2.0", "50.0 ± 0.0", "59.0 ± 1.0", "+11.0"]
    assert rows[3][0] == "cars"
    assert rows[3][-1] == f"{(42 + 40 + 45) / 3 - 32:+.1f}"
    assert rows[4][0] == "**mean**"
    assert len(rows) == 5
    assert len({len(row) for row in rows}) == 1


def put(root: Path, name: str, lines: list[Record]) -> None:
    (root / "results").mkdir(exist_ok=True)
    (root / "results" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def params(*names: str) -> Params:
    return Params.model_validate({"datasets": names, "backbone": "mini", "profiles": {"mini": {"architecture": "mini"}}})


def test_the_results_of_what_is_configured_in_its_order(tmp_path: Path) -> None:
    put(tmp_path, "pets", PETS)
    put(tmp_path, "cars", CARS)
    put(tmp_path, "dogs", CARS)
    assert report.collect(tmp_path, params("pets", "cars")) == PETS + CARS


def test_the_files_of_results(tmp_path: Path) -> None:
    found = report.summarise(PETS + CARS)
    report.write(tmp_path, PETS + CARS, found)
    folder = tmp_path / "reports"
    assert json.loads((folder / "summary.json").read_text()) == found
    assert [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()] == PETS + CARS


def test_missing_results_are_named(tmp_path: Path) -> None:
    put(tmp_path, "pets", PETS)
    with pytest.raises(MmlopError, match=r"no results at .*cars\.jsonl: run `dvc repro` \(or `mmlop train cars`\) first"):
        report.collect(tmp_path, params("pets", "cars"))


def test_damaged_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "pets.jsonl").write_text('{"dataset": "pe')
    with pytest.raises(MmlopError, match=r"pets\.jsonl is damaged"):
        report.collect(tmp_path, params("pets"))


def test_other_seeds_have_no_common_mean() -> None:
    cars = [line | {"seed": line["seed"] and line["seed"] + 10} for line in CARS]
    with pytest.raises(MmlopError, match="results of different seeds"):
        report.summarise(PETS + cars)


def test_a_bar_in_a_name_ends_no_cell() -> None:
    table = tables.Table("", (("", "taken for"),), (("a|b", "c"),), "class")
    assert tables.markdown(table).splitlines()[2] == r"| a\|b | c |"


def test_groups_span_their_columns() -> None:
    table = tables.Table("", (("here", "a"), ("here", "b"), ("published", "a")), ())
    assert table.groups == [("here", 2), ("published", 1)]
    assert tables.Table("", (("", "a"), ("", "b")), ()).groups == []
