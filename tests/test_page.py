"""The report: what is in it, that it is the same for the same results, and that users' words stay words."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import make_grid
import pytest
from make_report import DATASETS, Element, make_project, make_run, parsed, records, written

from mmlop import config, page, published, report, tables, tracking
from mmlop.errors import MmlopError
from mmlop.page import logged, printed, trained

pytest_plugins = ["project_fixtures"]

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a|b", "`code`", "{{ 7 * 7 }}")


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `make demo` leaves, but for the runs."""
    root = make_project(tmp_path / "project")
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def full(demo: Path) -> Path:
    """Everything that a report can be made from."""
    make_grid.family(demo, DATASETS)
    make_grid.ablation(demo, DATASETS)
    make_grid.shots(demo)
    for dataset in DATASETS:
        make_run(demo, dataset, make_grid.names(6))
    (demo / "reports").mkdir()
    (demo / "reports" / "timings.json").write_text('{"train@mini_sketch": {"seconds": 12.345, "peak_mb": 678}}')
    return demo


def titles(found: Element) -> list[str]:
    return [heading.text for section in found.all("section") for heading in section.all("h2")]


def named(found: Element, title: str) -> Element:
    (section,) = [one for one in found.all("section") if one.all("h2")[0].text == title]
    return section


def table(section: Element, caption: str) -> list[list[str]]:
    (found,) = [one for one in section.all("table") if [c.text for c in one.all("caption")] == [caption]]
    return found.cells()


def test_all_sections_in_their_order(full: Path) -> None:
    whole = parsed(written(full))
    assert titles(whole) == [
        "Results",
        "Published results",
        "Grid ablation",
        "Grid family",
        "Grid shots",
        "Data set by data set",
        "Costs",
        "Measured on",
    ]
    assert "mmlop benchmark family" not in whole.all("header")[0].text


def test_sections_without_data_are_left_out_with_a_sentence(demo: Path) -> None:
    found = parsed(written(demo))
    assert titles(found) == ["Results", "Published results"]
    said = found.all("header")[0].text
    for what in ("mmlop benchmark family", "dvc pull", "protocols.few_shot.shots"):
        assert what in said
    assert not (demo / "mlflow.db").exists()  # looking for links makes no store


def test_every_part_can_be_reached_and_is_named(full: Path) -> None:
    found = parsed(written(full))
    ids = [one.attributes["id"] for tag in ("section", "select") for one in found.all(tag)]
    assert len(ids) == len(set(ids))
    links = [one.attributes["href"] for one in found.all("nav")[0].all("a")]
    assert links == [f"#{one.attributes['id']}" for one in found.all("section")]
    assert {one.attributes["for"] for one in found.all("label")} == {one.attributes["id"] for one in found.all("select")}
    for choice in found.all("select"):
        panels = found.all("div", data_of=choice.attributes["data-panels"] or "")
        assert [one.all("h3")[0].text for one in panels] == [one.text for one in choice.all("option")]
    for figure in found.all("figure"):
        (drawing,) = figure.all("svg", role="img")
        assert drawing.attributes["aria-label"] == figure.all("figcaption")[0].text
    for box in found.all("div", role="region"):
        assert box.attributes["tabindex"] == "0"  # so that a keyboard can scroll it
        assert box.attributes["aria-label"]


def test_every_chart_has_what_it_shows(full: Path) -> None:
    found = parsed(written(full))
    drawings = found.all("svg", role="img")
    assert len(drawings) > 20
    for drawing in drawings:
        looks = [str(path.attributes["class"]).partition(" ")[0] for path in drawing.all("path")]
        assert {"dot", "bar", "line", "cell"} & set(looks), drawing.attributes["aria-label"]
        numbers = re.findall(r"-?\d+\.?\d*", " ".join(str(path.attributes["d"]) for path in drawing.all("path")))
        width, height = map(float, str(drawing.attributes["viewbox"]).split()[2:])
        assert all(-10 <= float(number) <= max(width, height) for number in numbers)
        for words in drawing.all("text"):
            assert 0 <= float(words.attributes["x"] or -1) <= width
            assert 0 <= float(words.attributes["y"] or -1) <= height


def test_tables_show_what_was_measured(full: Path) -> None:
    found = parsed(written(full))
    main = named(found, "Results").all("table")[0].cells()
    summary = report.summarise([record for place, name in enumerate(DATASETS) for record in records(name, 60.0 + place)])
    (expected,) = list(tables.of(summary))
    assert main[1:] == [list(row) for row in expected.rows]
    family = named(found, "Grid family")
    means = {row[0]: row for row in table(family, "Means over data sets")}
    assert means["Linear probe"][3:5] == ["", ""]  # knows no novel classes
    folder = full / "results" / "benchmark" / "family" / "coop"
    seeds = [[json.loads((folder / f"{d}.json").read_text())["seeds"][s][0] for d in DATASETS] for s in "123"]
    per_seed = [sum(one["metrics"]["base"] for one in found) / 2 for found in seeds]
    centre = sum(per_seed) / 3
    half = 4.3027 * (sum((x - centre) ** 2 for x in per_seed) / 2) ** 0.5 / 3**0.5  # t(0.975) with 2 degrees of freedom
    assert means["CoOp"][2] == f"{centre:.1f} [{centre - half:.1f}, {centre + half:.1f}]"
    goals = table(family, "Goals that were fixed beforehand")
    outcomes = {row[0]: row[-1] for row in goals[1:]}
    above = [outcomes[f"harmonic mean above {name}'s"] for name in ("CoOp", "VPT (deep)", "IVLP", "MaPLe")]
    assert above == ["met", "not measured", "met", "met"]
    signs = table(named(found, "Grid ablation"), "What each part changes, and the published sign of it")
    assert [row[:3] for row in signs[1::3]][:4] == [
        ["low rank", "HM", "-0.45"],
        ["consistency", "HM", "+1.72"],
        ["drift correction", "HM", "+0.42"],
        ["shared up-projection", "HM", "+0.50"],
    ]
    assert signs[4][-1] == "agrees"  # it brings much here
    assert table(named(found, "Costs"), "Pipeline")[1] == ["train@mini_sketch", "12.3", "0.68"]


def test_steps_are_told_only_of_points_that_are_there(full: Path) -> None:
    family = named(parsed(written(full)), "Grid family")
    assert "low rank" not in [row[0] for one in family.all("table") for row in one.cells()]  # ivlp, but not in low rank


def test_the_twin_begins_with_the_main_table_and_is_the_same_everywhere(full: Path) -> None:
    summary = page.write(full, config.load(full / "params.yaml"))
    text = (full / page.TWIN).read_text(encoding="utf-8")
    assert text.split("\n\n")[0] == tables.to_markdown(summary).split("\n\n")[0]
    for heading in ("Published results", "Grid family", "Grid ablation"):
        assert f"\n## {heading}\n" in text
    for local in ("## Costs", "## Runs", "## Measured on", "seconds", "mlflow"):
        assert local not in text
    for line in text.splitlines():
        assert line == line.rstrip()
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert all(len(row) > 3 for row in rows)


def test_the_same_results_give_the_same_bytes(full: Path) -> None:
    written(full)
    before = {file.name: file.read_bytes() for file in (full / "reports").iterdir()}
    written(full)
    assert {file.name: file.read_bytes() for file in (full / "reports").iterdir()} == before


def test_words_of_users_stay_words(demo: Path) -> None:
    names = [*HOSTILE, *make_grid.names(3)]
    make_run(demo, "mini_sketch", names)
    make_grid.put(demo, "family", "mmlop", {"method": "mmlop"}, "mini_sketch", 10, 80, 60, names)
    make_grid.put(demo, "family", HOSTILE[0], {"loss.text": HOSTILE[0]}, "mini_sketch", 20, 70, 50, names)
    found = parsed(written(demo))
    assert len(found.all("script")) == 1
    assert not found.all("img")
    assert all(not name.startswith("on") for one in everything(found) for name in one.attributes)
    said = named(found, "Data set by data set").text
    for name in HOSTILE:
        assert name in said
    assert HOSTILE[0] in named(found, "Grid family").text


def everything(element: Element) -> list[Element]:
    return [one for inside in element.inside for one in (inside, *everything(inside))]


def test_the_page_lets_a_browser_load_nothing_and_run_its_own_script_only(full: Path) -> None:
    text = written(full)
    found = parsed(text)
    (policy,) = [one.attributes["content"] for one in found.all("meta") if one.attributes.get("http-equiv")]
    rules = dict(rule.split(maxsplit=1) for rule in str(policy).split("; "))
    assert rules["default-src"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (own,) = found.all(tag)
        digest = base64.b64encode(hashlib.sha256(own.text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not [one for one in everything(found) if "style" in one.attributes or "src" in one.attributes]
    assert "http" not in re.sub(
        r"https?://(127\.0\.0\.1|www\.w3\.org)", "", "".join(re.findall(r'(?:href|src)="[^"]*"', text))
    )


def test_a_thousand_classes_are_still_a_page(demo: Path) -> None:
    make_run(demo, "mini_sketch", make_grid.names(1000))
    text = written(demo)
    assert len(text) < 2_000_000
    section = named(parsed(text), "Data set by data set")
    assert len([row for one in section.all("table") for row in one.cells() if row[0].startswith("thing")]) > 1000
    assert len(section.all("image")) == 2


def test_bins_of_seeds_are_pooled_by_their_pictures() -> None:
    first, second = [[2, 40.0, 50.0], [0, 0.0, 0.0]], [[6, 20.0, 0.0], [0, 0.0, 0.0]]
    assert trained.pooled([first, second]) == [[8, 25.0, 12.5], [0, 0.0, 0.0]]


def test_public_data_sets_stand_beside_what_is_published(tmp_path: Path, demo: Path) -> None:
    make_project(demo, ["eurosat", "mini_digits"])
    make_grid.family(demo, ["eurosat", "mini_digits"])
    found = parsed(written(demo))
    beside = table(named(found, "Published results"), "HM, here and published")
    assert beside[0] == ["data set", "CLIP", "MMLoP", "CLIP", "CoOp", "CoCoOp", "MaPLe", "PromptSRC"]
    assert [row[0] for row in beside[1:]] == ["eurosat"]
    assert beside[1][3:] == ["60.0", "68.7", "71.2", "82.3", "82.3"]
    (panel,) = [one for one in named(found, "Grid family").all("div") if [h.text for h in one.all("h3")] == ["HM"]]
    rows = {row[0]: row for row in panel.all("table")[0].cells()}
    assert rows["eurosat"][-4:] == ["68.7", "71.2", "82.3", "82.3"]
    assert rows["mini_digits"][-4:] == [""] * 4


def test_published_cells_are_those_of_the_paper() -> None:
    columns, cells = printed.columns(["dtd", "mini_digits"], "novel")
    assert ("published", "CoOp") in columns
    assert cells["dtd"][columns.index(("published", "CoOp"))] == "41.2"
    assert set(cells["mini_digits"]) == {""}


@pytest.mark.parametrize("where", ["runs/mini_sketch/run.json", "results/benchmark/family/coop/mini_digits.json"])
def test_a_damaged_file_is_named_and_nothing_is_written(full: Path, where: str) -> None:
    (full / where).write_text('{"format": 1')
    with pytest.raises(MmlopError, match="is damaged"):
        written(full)
    assert [file.name for file in (full / "reports").iterdir()] == ["timings.json"]


def test_missing_results_leave_no_report(demo: Path) -> None:
    (demo / "results" / "mini_digits.jsonl").unlink()
    with pytest.raises(MmlopError, match=r"no results at .*mini_digits\.jsonl: run `dvc repro`"):
        written(demo)
    assert not (demo / "reports").exists()


@pytest.fixture
def logged_grid(full: Path) -> str:
    """One of the measurements is in the project's store, another half logged; the run's id."""
    client = tracking.connect()
    experiment = tracking.experiment_of(client, "mmlop-benchmark-family")
    files = [full / "results" / "benchmark" / "family" / "coop" / f"{name}.json" for name in DATASETS]
    runs = []
    for file in files:
        tags = {"mmlop.run": json.loads(file.read_text())["key"]}
        runs.append(str(client.create_run(experiment, tags=tags).info.run_id))
    client.set_tag(runs[0], "mmlop.complete", "true")
    return runs[0]


def test_runs_of_grids_are_found_by_the_keys_of_results(
    full: Path, logged_grid: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    section = named(parsed(written(full)), "Runs")
    assert table(section, "Grid family") == [["point", "mini_sketch"], ["CoOp", logged_grid]]
    assert "mlflow ui" in section.text
    assert not section.all("a")
    with closing(sqlite3.connect(full / "mlflow.db")) as store:  # it can be opened, but not searched
        store.execute("DROP TABLE tags")
    assert "Runs" not in titles(parsed(written(full)))
    assert "The report is without links to MLflow" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")  # nobody answers there
    assert "Runs" not in titles(parsed(written(full)))


def test_runs_of_the_pipeline_are_found_in_the_store(project: Path, backbone: Path) -> None:
    from make_run import make_run as make_trained

    folder = make_trained(project, "toy", backbone)
    run = tracking.log_run(folder, {})
    section = logged.section(project, ["toy", "never_trained"], {})
    assert section is not None
    assert section.tables[0].rows == (("toy", run),)
    (folder / "run.json").write_text((folder / "run.json").read_text() + " ")  # other results than those logged
    assert logged.section(project, ["toy"], {}) is None


def test_params_order_the_points_of_a_grid(full: Path) -> None:
    values = json.loads((full / "params.yaml").read_text())
    values["grids"] = {"family": {"about": "who is best", "vary": [{"method": ["ivlp", "mmlop", "coop"]}]}}
    (full / "params.yaml").write_text(json.dumps(values))
    make_grid.as_planned(full, "family")
    found = parsed(written(full))
    assert titles(found)[2:4] == ["Grid family", "Grid ablation"]
    section = named(found, "Grid family")
    assert [row[0] for row in table(section, "Means over data sets")[1:]] == ["IVLP", "MMLoP", "CoOp"]
    assert "Who is best." in section.text
    assert config.load(full / "params.yaml").grids["family"].about == "who is best"


def describe(root: Path, **grids: Any) -> None:
    values = json.loads((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(json.dumps(values | {"grids": grids}))


def test_stale_measurements_are_counted_and_not_shown(full: Path) -> None:
    describe(full, family={"vary": [{"method": ["ivlp", "mmlop", "coop"]}]})
    make_grid.as_planned(full, "family")
    file = full / "results" / "benchmark" / "family" / "coop" / "mini_digits.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"code": "0" * 16}))
    section = named(parsed(written(full)), "Grid family")
    said = "1 of 6 results was measured with other settings or code: mmlop benchmark family measures it again."
    assert said in section.text
    assert "mini_digits is left out: not measured, or not with every seed, for CoOp." in section.text
    describe(
        full, family={"vary": [{"method": ["ivlp", "mmlop", "coop"]}], "set": {"loss.drift_correction": None}, "seeds": [7]}
    )
    section = named(parsed(written(full)), "Grid family")
    assert "6 of 6 results were measured with other settings or code" in section.text
    assert not section.all("table")
    assert "6 of 6 results were measured" in (full / page.TWIN).read_text()


def test_grids_and_points_that_cannot_be_any_more_do_not_end_the_report(full: Path) -> None:
    describe(
        full,
        family={"vary": [{"method": ["mmlop", "coop"]}, {"prompts.rank": [99]}]},
        ablation={"datasets": ["nope"]},
        shots={"vary": [{"promts.rank": [1]}]},
    )
    make_grid.as_planned(full, "family")
    found = parsed(written(full))
    assert [row[0] for row in table(named(found, "Grid family"), "Means over data sets")[1:]] == ["MMLoP", "CoOp"]
    said = "Nothing of it is shown: grids.ablation.datasets has 'nope', but there is no such data set."
    assert said in named(found, "Grid ablation").text
    assert "params.yaml has no key 'promts'" in named(found, "Grid shots").text


def test_goals_are_about_the_grid_of_methods_alone(full: Path) -> None:
    for method in make_grid.METHODS:
        trainable, base, novel = make_grid.METHODS[method]
        for dataset in DATASETS:
            put = {"method": method}, dataset, trainable, base, novel, make_grid.names(6)
            make_grid.put(full, "other", method, *put)
    found = parsed(written(full))
    goals = "Goals that were fixed beforehand"
    assert table(named(found, "Grid family"), goals)
    assert goals not in named(found, "Grid other").text
    assert "MMLoP minus each of the others" in named(found, "Grid other").text


def test_what_is_told_of_the_paper_is_called_second_hand(full: Path) -> None:
    section = named(parsed(written(full)), "Grid ablation")
    signs = table(section, "What each part changes, and the published sign of it")
    assert signs[0] == ["part", "metric", "second-hand", "here", "sign"]
    citation = published.load().ablations["components"].citation
    assert f"What is published of each part is second-hand: {citation}" in section.text
    assert "in the paper" not in section.text


def test_a_grid_of_curves_has_its_means_sizes_and_costs(demo: Path) -> None:
    for method, accuracy in (("mmlop", 70.0), ("coop", 60.0)):
        file = make_grid.put(demo, "curve", method, {"method": method}, "mini_digits", 100, 0.0, 0.0, make_grid.names(4))
        one = json.loads(file.read_text())
        for seed in one["seeds"]:
            one["seeds"][seed] = [
                {"protocol": "few_shot", "shots": shots, "epochs": 8, "metrics": {"accuracy": accuracy + shots}}
                for shots in (1, 16)
            ]
        file.write_text(json.dumps(one | {"trainable": 100 + int(accuracy)}))
    found = parsed(written(demo))
    section = named(found, "Grid curve")
    assert [row[:3] for row in table(section, "Means over data sets")] == [
        ["point", "trained numbers", "accuracy"],
        ["CoOp", "160", "76.0 [76.0, 76.0]"],
        ["MMLoP", "170", "86.0 [86.0, 86.0]"],
    ]
    assert "Accuracy against trained numbers" in [one.text for one in section.all("figcaption")]
    assert [row[:2] for row in table(named(found, "Costs"), "Grid curve")[1:]] == [["CoOp", "10.1"], ["MMLoP", "10.1"]]
