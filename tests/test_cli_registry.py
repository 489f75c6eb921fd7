"""`mmlop registry`: what is registered, two adapters side by side, promoted and rolled back, for people and for scripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from make_run import make_data, make_run, relabel
from said import Run, error

from mmlop import config, registry
from mmlop.adapter import Adapter
from mmlop.data.manifest import Manifest

pytest_plugins = ["cli_fixtures", "project_fixtures"]

ONE, TWO = "models:/mmlop-toy/1", "models:/mmlop-toy/2"


@pytest.fixture
def two(project: Path, backbone: Path) -> Path:
    """A project with version 1, the champion, which is bad, and version 2, which is good and not decided on."""
    registry.publish(make_run(project, "toy", backbone, seed=1, noise=5.0), {"git_commit": "abc", "git_dirty": "true"})
    folder = make_run(project, "toy", backbone, seed=2)
    relabel(project, "toy", folder / "adapter", wrong=2)
    registry.register(folder, registry.publish(folder, {"git_commit": "def"}, register=False).run_id)
    return project


def asked(mmlop: Run, *arguments: Any) -> Any:
    return json.loads(mmlop("registry", *arguments, "--json").out)


def test_the_life_of_a_champion(mmlop: Run, two: Path) -> None:
    listed = asked(mmlop, "list", "toy")
    assert [(one["version"], one["aliases"]) for one in listed] == [(1, ["champion"]), (2, [])]
    shown = mmlop("registry", "list").out
    assert all(word in shown for word in ("mmlop-toy", "champion", "accuracy 41.0", "accuracy 42.0", " B"))

    promoted = asked(mmlop, "promote", "toy", 2)
    assert (promoted["outcome"], promoted["champion"]) == ("promoted", 1)
    assert promoted["challenge"]["comparison"]["pictures"] == 40
    said = mmlop("registry", "rollback", "toy", "--reason", "confuses [cats] and dogs")
    assert (said.code, said.out) == (
        0,
        "Version 1 is champion again, version 2 was rolled back: confuses [cats] and dogs\n",
    )
    back = asked(mmlop, "rollback", "toy", "--reason", "it was the pictures", "--to", 2)
    assert (back["outcome"], back["champion"]) == ("rolled_back", 1)

    found = asked(mmlop, "show", "models:/mmlop-toy@champion")
    assert (found["registered"]["version"], found["registered"]["aliases"]) == (2, ["champion"])
    assert [(entry["old"], entry["new"]) for entry in found["history"]] == [(1, 2), (2, 1), (1, 2)]
    assert found["tags"]["mmlop.forced"] == "it was the pictures"
    shown = mmlop("registry", "show", "models:/mmlop-toy@champion").out
    for line in (
        "mmlop-toy version 2 (champion)",
        "by hand          it was the pictures",
        "champion in place of version 1 (promoted)",
        "  Version 1 is champion again, version 2 was rolled back: confuses [cats] and",
        "champion in place of version 1 (rolled back)",
    ):
        assert line in shown


def test_show_tells_where_an_adapter_comes_from(mmlop: Run, two: Path) -> None:
    info = Adapter.load(registry.resolve(ONE)).info
    shown = " ".join(mmlop("registry", "show", ONE).out.split())
    for words in (
        "mmlop-toy version 1 (champion)",
        "data set toy, 4 classes",
        f"{info.shape.trainable} trained numbers, ",
        "accuracy 41.00",
        "git commit abc, with changes that are in no commit",
        f"data {info.origin.data_hash}",
        f"split {'5' * 64} shots 1 seed 1",
        "mode device cpu",
        f"MLflow run {registry.versions('toy')[0].run_id}",
        "outcome first",
        "reason Version 1 is the first champion.",
        "origin.params.prompts.rank 1",
    ):
        assert words in shown
    assert "git commit def" in " ".join(mmlop("registry", "show", TWO).out.split())
    found = asked(mmlop, "show", ONE)
    assert found["trainable"] == info.shape.trainable
    assert found["size"] == registry.versions("toy")[0].size
    assert {key: found[key] for key in info.model_dump(mode="json")} == info.model_dump(mode="json")


def test_show_of_what_is_not_registered(mmlop: Run, two: Path) -> None:
    run_id = registry.versions("toy")[1].run_id
    found = asked(mmlop, "show", f"runs:/{run_id}/adapter")
    assert (found["registered"], found["tags"]["mmlop.git_commit"], found["run_id"]) == (None, "def", run_id)
    found = asked(mmlop, "show", "runs/toy/adapter")
    assert (found["registered"], found["tags"], found["run_id"]) == (None, {}, "")
    assert "registered no" in " ".join(mmlop("registry", "show", "runs/toy/adapter").out.split())
    assert "its versions: 1, 2" in error(mmlop("registry", "show", "models:/mmlop-toy@champoin"))


def test_compare_tells_which_one_is_better(mmlop: Run, two: Path) -> None:
    found = asked(mmlop, "compare", ONE, TWO)
    decision = registry.promote("toy", 2, config.Champion())
    assert decision.challenge is not None
    test = decision.challenge.comparison
    assert found["test"]["comparison"] == {
        "pictures": 40,
        "champion": test.champion,
        "challenger": test.challenger,
        "p_value": test.p_value,
    }
    assert [one["registered"]["version"] for one in found["adapters"]] == [1, 2]
    assert found["params"] == {}
    assert found["data"]["seed"] == [1, 2]
    assert set(found["data"]) == {"seed"}
    said = mmlop("registry", "compare", ONE, TWO).out
    assert f"{TWO} is better than {ONE}: 95.0 against {test.champion:.1f} % right on 40 validation pictures" in said
    for one in found["test"]["classes"]:
        change = f"{one['challenger'] - one['champion']:+.1f}"
        line = next(line for line in said.splitlines() if line.strip().startswith(one["name"]))
        assert line.split()[-4:] == [
            str(one["pictures"]),
            f"{one['champion']:.1f}",
            f"{one['challenger']:.1f}",
            change,
        ]
    assert f"{ONE} is not shown to be better than {TWO}: " in asked(mmlop, "compare", TWO, ONE)["sentence"]
    beside = mmlop("registry", "compare", "runs/toy/adapter", ONE).out  # a folder, by the run.json beside it
    assert f"{ONE} is not shown to be better than runs/toy/adapter: " in beside


def test_compare_leaves_out_what_either_was_trained_on(mmlop: Run, two: Path) -> None:
    file = two / "runs" / "toy" / "run.json"
    record = json.loads(file.read_text())
    manifest = Manifest.load(two / "data" / "toy" / "manifest.json")
    record["deliverable"]["trained_on"] = [picture.content for picture in manifest.of("val")][:11]
    file.write_text(json.dumps(record))
    found = asked(mmlop, "compare", ONE, "runs/toy/adapter")
    assert found["test"]["comparison"]["pictures"] == 29
    assert "cannot be told: there are 29 validation pictures that neither was trained on, and 30 are" in found["sentence"]


def test_compare_says_what_differs_and_why_it_cannot_tell(mmlop: Run, two: Path, backbone: Path) -> None:
    make_data(two, "other")
    folder = make_run(two, "other", backbone) / "adapter"
    info = json.loads((folder / "adapter.json").read_text())
    info["origin"]["params"]["prompts"]["rank"] = 2
    (folder / "adapter.json").write_text(json.dumps(info))
    found = asked(mmlop, "compare", ONE, folder)
    assert found["params"] == {"prompts.rank": [1, 2]}
    assert found["data"]["data set"] == ["toy", "other"]
    assert found["test"] is None
    said = mmlop("registry", "compare", ONE, folder)
    assert said.code == 0
    assert "cannot be compared on pictures here: models:/mmlop-toy/1 is of the data set toy, " in said.out
    alone = two / "alone"
    shutil.copytree(two / "runs" / "toy" / "adapter", alone)
    assert "alone was trained on is not known" in asked(mmlop, "compare", ONE, alone)["sentence"]
    assert "run.json is of another adapter" in asked(mmlop, "compare", ONE, folder_beside(two))["sentence"]
    shutil.rmtree(two / "data" / "toy")
    assert (
        "data/toy/manifest.json does not exist: fetch the data set first" in asked(mmlop, "compare", ONE, TWO)["sentence"]
    )


def folder_beside(project: Path) -> Path:
    """An adapter beside a run.json of another one."""
    other = project / "runs" / "toy" / "other"
    shutil.copytree(project / "runs" / "toy" / "adapter", other)
    (other / "adapter.json").write_text((other / "adapter.json").read_text() + " ")
    return other


def test_mistakes_are_one_sentence(mmlop: Run, two: Path) -> None:
    for command, says in {
        "rollback toy --reason bad": "mmlop-toy has no other version @previous to go back to",
        "rollback toy --reason=": "--reason needs a reason",
        "rollback toi --reason bad": "no registered adapter 'mmlop-toi'; registered: mmlop-toy",
        "promote toy 9": "mmlop-toy has no version '9'; its versions: 1, 2",
        "promote toy 2 --force=": "--force needs a reason",
        f"compare {ONE} nowhere": "nowhere is no adapter",
        "list toi": "no registered adapter 'mmlop-toi'",
        "show models:/mmlop-toy": "names no version",
    }.items():
        assert says in error(mmlop("registry", *command.split(" ")))
    said = mmlop("registry", "rollback", "toy")
    assert said.code == 2
    assert "--reason" in said.err
