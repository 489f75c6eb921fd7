"""What a retraining came to, told from the registry before and after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_run import CLASSES, make_run, relabel

from mmlop import registry, retraining, store
from mmlop.errors import MmlopError
from mmlop.retraining import Standing

pytest_plugins = ["project_fixtures"]


def tags(name: str = "mmlop-toy") -> dict[str, str]:
    return dict(store.connect().get_registered_model(name).tags)


def retrained(project: Path, backbone: Path, **run: float) -> retraining.Result:
    before = retraining.begin("toy")
    registry.publish(make_run(project, "toy", backbone, **run), {})
    result = retraining.finish("toy", before, {"flow_run": "abc"})
    retraining.forget("toy")
    return result


def test_the_first_adapter_is_promoted(project: Path, backbone: Path) -> None:
    assert retraining.begin("toy") == Standing(None, None)
    assert registry.versions() == []
    with pytest.raises(MmlopError, match="champion"):
        registry.resolve("models:/mmlop-toy@champion")
    result = retrained(project, backbone)
    assert (result.outcome, result.sentence) == ("promoted", "toy: Version 1 is the first champion.")
    assert tags()["mmlop.retrain_outcome"] == "promoted"
    told = retraining.markdown("toy", result, {"data/toy": "new"})
    assert told.startswith("## toy: a new champion\n")
    assert "since data/toy new." in told
    assert "| first | 41.0 |" in told


def test_the_same_adapter_again_is_unchanged(project: Path, backbone: Path) -> None:
    retrained(project, backbone)
    result = retrained(project, backbone)
    assert (result.outcome, result.sentence) == ("unchanged", "toy: no new adapter, version 1 stays champion.")
    assert "trained again" not in retraining.markdown("toy", result, {})
    assert registry.versions("toy")[0].tags["mmlop.retrain_outcome"] == "promoted"  # the version's own
    assert tags()["mmlop.retrain_outcome"] == "unchanged"


def test_a_worse_challenger_is_kept_out_and_a_better_one_promoted(project: Path, backbone: Path) -> None:
    relabel(project, "toy", make_run(project, "toy", backbone, seed=2) / "adapter", wrong=2)
    assert retrained(project, backbone, seed=1, noise=5.0).outcome == "promoted"
    better = retrained(project, backbone, seed=2)
    assert better.outcome == "promoted"
    assert better.champion is not None
    assert better.champion.version == 1  # the one that was replaced
    told = retraining.markdown("toy", better, {})
    for one in better.classes:
        change = one["challenger"] - one["champion"]
        row = f"| {one['name']} | {one['pictures']} | {one['champion']:.1f} | {one['challenger']:.1f} | {change:+.1f} |"
        assert row in told
    assert {one["name"] for one in better.classes} <= set(CLASSES)
    assert sum(one["pictures"] for one in better.classes) == 40
    worse = retrained(project, backbone, seed=3, noise=5.0)
    assert worse.outcome == "kept"
    assert worse.champion is not None
    assert (worse.champion.version, worse.challenger and worse.challenger.version) == (2, 3)
    assert "Version 2 stays champion" in worse.sentence
    assert tags()["mmlop.retrain_flow_run"] == "abc"


def test_a_run_that_died_is_told_of_by_the_next(project: Path, backbone: Path) -> None:
    retraining.begin("toy")
    registry.publish(make_run(project, "toy", backbone), {})
    # The process died here; another one takes over and finds nothing left to train.
    before = retraining.begin("toy")
    assert before == Standing(None, None)
    assert retraining.finish("toy", before, {}).outcome == "promoted"
    # And here, before anybody was told.
    assert retraining.finish("toy", retraining.begin("toy"), {}).outcome == "promoted"
    retraining.forget("toy")
    assert "mmlop.retrain_before" not in tags()
    assert retraining.begin("toy") == Standing(1, 1)


def test_many_changes_are_cut_short() -> None:
    shown = retraining.shown({f"mmlop/{number}.py": "modified" for number in range(9)})
    assert shown.endswith("mmlop/5.py modified and 3 more")


def test_a_decision_made_later_counts_for_the_run_that_made_it(project: Path, backbone: Path) -> None:
    relabel(project, "toy", make_run(project, "toy", backbone, seed=2) / "adapter", wrong=2)
    retrained(project, backbone, seed=1, noise=5.0)
    published = registry.publish(make_run(project, "toy", backbone, seed=2), {})
    assert published.decision is not None
    store.connect().set_registered_model_alias("mmlop-toy", "champion", "1")  # as where it could not be compared before
    store.connect().delete_model_version_tag("mmlop-toy", "2", "mmlop.decision")
    before = retraining.begin("toy")
    assert before == Standing(1, 2)
    again = registry.publish(project / "runs" / "toy", {})
    result = retraining.finish("toy", before, {}, again.decision)
    assert result.outcome == "promoted"
    assert result.challenger is not None
    assert result.challenger.version == 2
