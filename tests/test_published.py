"""The published results: their sums, their citations, their names, and that they come with the package."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest
import yaml

from mmlop import published
from mmlop.data.public.catalogue import SPECS
from mmlop.methods import METHODS

ROUNDING = 0.02  # of a printed number that follows from printed numbers; no row here is a known misprint

PUBLISHED = published.load()
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
ELEVEN = tuple(name for name in SPECS if name not in VARIANTS)
HALVES = {
    f"{method} {dataset}": halves
    for method, table in PUBLISHED.per_dataset.items()
    for dataset, halves in table.datasets.items()
} | {f"{method} average": row for method, row in PUBLISHED.averages.items() if row.base is not None}


def cited(node: object) -> Iterator[published.Cited]:
    """Every record below ``node`` that has a citation."""
    if isinstance(node, published.Cited):
        yield node
    below = vars(node).values() if isinstance(node, published.Record) else node.values() if isinstance(node, dict) else []
    for each in below:
        yield from cited(each)


# ---- sums ----


@pytest.mark.parametrize("which", HALVES)
def test_hm_follows_from_base_and_novel(which):
    base, novel, hm = HALVES[which].base, HALVES[which].novel, HALVES[which].hm
    assert hm == pytest.approx(2 / (1 / base + 1 / novel), abs=ROUNDING)


@pytest.mark.parametrize("method", PUBLISHED.per_dataset)
@pytest.mark.parametrize("half", ["base", "novel"])
def test_averages_follow_from_the_eleven_data_sets(method, half):
    datasets = PUBLISHED.base_to_novel(method)
    assert tuple(datasets) == ELEVEN
    assert mean(getattr(row, half) for row in datasets.values()) == pytest.approx(
        getattr(PUBLISHED.averages[method], half), abs=ROUNDING
    )


@pytest.mark.parametrize("method", PUBLISHED.transfer)
def test_transfer_averages_follow_from_the_ten_targets(method):
    row = PUBLISHED.transfer[method]
    assert tuple(row.targets) == ELEVEN[1:]
    assert mean(row.targets.values()) == pytest.approx(row.average, abs=ROUNDING)


@pytest.mark.parametrize("method", PUBLISHED.variants)
def test_variant_averages_follow_from_the_four(method):
    row = PUBLISHED.variants[method]
    if method == "mmlop":
        assert not row.targets  # nobody printed them
        assert row.note
    else:
        assert tuple(row.targets) == VARIANTS
        assert mean(row.targets.values()) == pytest.approx(row.average, abs=ROUNDING)


def test_the_same_trainings_have_the_same_accuracy_on_the_source():
    both = PUBLISHED.transfer.keys() & PUBLISHED.variants.keys()
    assert both == {"zero_shot", "coop", "cocoop", "maple", "promptsrc"}
    for method in both:
        assert PUBLISHED.transfer[method].imagenet == PUBLISHED.variants[method].imagenet


def test_few_shot_has_every_number_of_shots_and_grows_with_them():
    for rows in PUBLISHED.few_shot.methods.values():
        assert list(rows) == [1, 2, 4, 8, 16]
        assert list(rows.values()) == sorted(rows.values())


def test_accuracies_are_percent():
    few = [value for rows in PUBLISHED.few_shot.methods.values() for value in rows.values()]
    halves = [value for row in HALVES.values() for value in (row.base, row.novel, row.hm)]
    moved = [
        v for table in (PUBLISHED.transfer, PUBLISHED.variants) for row in table.values() for v in row.targets.values()
    ]
    assert all(15 < value < 100 for value in few + halves + moved)


# ---- trained numbers ----


@pytest.mark.parametrize("method", PUBLISHED.parameters)
def test_counts_follow_from_their_formulas(method):
    row = PUBLISHED.parameters[method]
    assert re.fullmatch(r"[\d+*() ]+", row.formula)
    assert eval(row.formula) == row.count


@pytest.mark.parametrize("method", [name for name, row in PUBLISHED.parameters.items() if row.printed])
def test_printed_counts_are_the_counted_ones_cut_off(method):
    row = PUBLISHED.parameters[method]
    number, unit = float(row.printed[:-1]), {"K": 1e3, "M": 1e6}[row.printed[-1]]
    digits = len(row.printed.partition(".")[2]) - 1
    assert number <= row.count / unit < number + 10.0**-digits


# ---- what is said about them ----


def test_everything_has_a_citation_that_can_be_followed():
    found = list(cited(PUBLISHED))
    assert len(found) > 30
    for each in found:
        assert re.search(r"arXiv \d{4}\.\d{5}|github\.com/\w+|docs/", each.citation), each


def test_every_citation_is_used_and_every_source_named():
    raw = yaml.safe_load(published.SOURCE.read_text())
    named = re.findall(r"source: (\w+)", published.SOURCE.read_text())
    assert set(named) == set(raw["citations"])


def test_what_is_not_from_the_paper_says_so():
    assert all(ablation.secondhand and "not verified" in ablation.citation for ablation in PUBLISHED.ablations.values())
    assert "not verified" in PUBLISHED.variants["mmlop"].citation
    mmlop = PUBLISHED.averages["mmlop"]
    assert (mmlop.base, mmlop.novel, mmlop.hm) == (None, None, 79.70)
    assert "abstract" in mmlop.citation


def test_ablations_start_and_end_with_published_averages():
    rows = PUBLISHED.ablations["components"].rows
    assert (rows[0].base, rows[0].hm) == (PUBLISHED.averages["ivlp"].base, PUBLISHED.averages["ivlp"].hm)
    assert rows[-1].hm == PUBLISHED.averages["mmlop"].hm
    assert all(row.base or row.novel or row.hm for table in PUBLISHED.ablations.values() for row in table.rows)


def test_methods_are_known_ones():
    tables = (PUBLISHED.averages, PUBLISHED.per_dataset, PUBLISHED.few_shot.methods, PUBLISHED.transfer, PUBLISHED.variants)
    assert {method for table in (*tables, PUBLISHED.parameters) for method in table} <= {*METHODS, "cocoop"}
    assert {*METHODS} - {"linear_probe", "tip_adapter"} <= PUBLISHED.averages.keys()


def test_a_method_without_published_results_has_none():
    assert PUBLISHED.base_to_novel("mmlop") == {}
    assert PUBLISHED.base_to_novel("coop")["eurosat"].novel == 54.74


# ---- the file ----


def test_the_file_is_packaged():
    project = tomllib.loads((Path(published.__file__).parents[1] / "pyproject.toml").read_text())
    assert published.SOURCE.name in project["tool"]["setuptools"]["package-data"]["mmlop"]
