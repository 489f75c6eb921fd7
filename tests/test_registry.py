"""The registry on real stores: versions once each, the champion rule, URIs, a server that was down, and serving."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from make_run import make_data, make_run, relabel, save_backbone

from mmlop import champion, config, promotion, registry, store
from mmlop.adapter import identity
from mmlop.classifier import Classifier
from mmlop.errors import MmlopError
from mmlop.store import TrackingUnavailable

pytest_plugins = ["project_fixtures"]

RULE = config.Champion(level=0.05, pictures=30)


def two_versions(project: Path, backbone: Path, noise: float = 0.0) -> None:
    """Version 1, champion, with ``noise``; version 2, logged and registered, which has not challenged it yet."""
    registry.publish(make_run(project, "toy", backbone, seed=1, noise=noise), {})
    folder = make_run(project, "toy", backbone, seed=2)
    relabel(project, "toy", folder / "adapter", wrong=2)
    registry.register(folder, registry.publish(folder, {}, register=False).run_id)


def aliases() -> dict[int, tuple[str, ...]]:
    return {version.version: version.aliases for version in registry.versions("toy")}


def test_publish_registers_once_and_makes_the_first_champion(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone)
    published = registry.publish(folder, {"git_commit": "abc", "git_dirty": "false"})
    assert published.new
    assert published.decision is not None
    assert published.decision.outcome == "first"
    again = registry.publish(folder, {})
    assert (again.run_id, again.new, again.decision) == (published.run_id, False, None)
    assert again.sentence == "toy: already registered as mmlop-toy version 1."
    (version,) = registry.versions()
    assert version.aliases == ("champion",)
    assert version.identity == identity(folder / "adapter")
    assert version.metrics == {"validation": 50.0, "accuracy": 41.0, "ece": 5.0}
    assert version.size == (folder / "adapter" / "adapter.safetensors").stat().st_size
    assert version.run_id == published.run_id
    assert version.tags["mmlop.git_commit"] == "abc"
    assert version.tags["mmlop.decision"] == "first"
    assert version.tags["mmlop.trainable"] == "132"
    assert registry.register(folder, published.run_id).version == 1


def test_an_experiment_is_logged_and_not_registered(project: Path, backbone: Path) -> None:
    published = registry.publish(make_run(project, "toy", backbone), {}, register=False)
    assert published.version is None
    assert registry.versions() == []


def test_a_better_challenger_becomes_champion(project: Path, backbone: Path) -> None:
    two_versions(project, backbone, noise=5.0)
    decision = registry.promote("toy", 2, RULE)
    assert decision.outcome == "promoted"
    assert decision.challenge is not None
    assert decision.challenge.comparison.pictures == 40
    assert decision.challenge.comparison.challenger == 95.0
    assert decision.challenge.comparison.p_value < 0.05
    assert aliases() == {1: ("previous",), 2: ("champion",)}
    tags = registry.versions("toy")[1].tags
    assert (tags["mmlop.decision"], tags["mmlop.reason"]) == ("promoted", decision.reason)
    assert float(tags["mmlop.p_value"]) < 0.05
    assert registry.promote("toy", 2, RULE).outcome == "unchanged"
    assert registry.versions("toy")[1].tags == tags


@contextlib.contextmanager
def cut_off(project: Path, table: str, key: str, value: str) -> Iterator[None]:
    """The database fails where a kill would cut off: when ``value`` is written into the column ``key`` of a table."""
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as database:
        for change in ("INSERT", "UPDATE"):
            database.execute(
                f"CREATE TRIGGER cut_off_{change} BEFORE {change} ON {table} WHEN NEW.{key} = '{value}' "
                f"BEGIN SELECT RAISE(ABORT, 'cut off'); END"
            )
        yield
        for change in ("INSERT", "UPDATE"):
            database.execute(f"DROP TRIGGER cut_off_{change}")


@pytest.mark.parametrize(
    ("table", "key", "value", "after"),
    [
        ("registered_model_aliases", "alias", "previous", {1: ("champion",), 2: ()}),
        ("registered_model_aliases", "alias", "champion", {1: ("champion", "previous"), 2: ()}),
        ("model_version_tags", "key", "mmlop.p_value", {1: ("previous",), 2: ("champion",)}),
        ("model_version_tags", "key", "mmlop.decision", {1: ("previous",), 2: ("champion",)}),
        ("tags", "key", "mmlop.champion.2", {1: ("previous",), 2: ("champion",)}),
    ],
)
def test_a_promotion_that_was_cut_off_is_finished(
    project: Path, backbone: Path, table: str, key: str, value: str, after: dict[int, tuple[str, ...]]
) -> None:
    two_versions(project, backbone, noise=5.0)
    with cut_off(project, table, key, value), pytest.raises(TrackingUnavailable, match="cut off"):
        registry.promote("toy", 2, RULE)
    assert aliases() == after
    decision = registry.publish(project / "runs" / "toy", {}).decision
    if value == "mmlop.champion.2":  # all was decided but for the mark
        assert decision is None
    else:
        assert decision is not None
        assert (decision.outcome, decision.champion) == ("promoted", 1)
    assert aliases() == {1: ("previous",), 2: ("champion",)}
    tags = registry.versions("toy")[1].tags
    assert (tags["mmlop.decision"], tags["mmlop.compared_with"], tags["mmlop.pictures"]) == ("promoted", "1", "40")
    assert registry.promote("toy", 2, RULE).outcome == "unchanged"
    assert registry.versions("toy")[1].tags == tags


def test_a_promotion_by_hand_that_was_cut_off_stays_one_by_hand(project: Path, backbone: Path) -> None:
    two_versions(project, backbone, noise=5.0)
    assert registry.promote("toy", 2, config.Champion(level=0.05, pictures=41)).outcome == "too_few"
    with (
        cut_off(project, "model_version_tags", "key", "mmlop.decision"),
        pytest.raises(TrackingUnavailable, match="cut off"),
    ):
        registry.promote("toy", 2, RULE, force="seen by eye")
    assert aliases() == {1: ("previous",), 2: ("champion",)}
    assert "mmlop.decision" not in registry.versions("toy")[1].tags  # nor the one before
    finished = registry.promote("toy", 2, RULE)
    assert (finished.outcome, finished.champion) == ("forced", 1)
    tags = registry.versions("toy")[1].tags
    assert (tags["mmlop.decision"], tags["mmlop.forced"]) == ("forced", "seen by eye")
    assert tags["mmlop.reason"] == finished.reason == "Version 2 replaces version 1 as champion by hand: seen by eye"
    assert aliases() == {1: ("previous",), 2: ("champion",)}


def test_a_champion_is_rolled_back_with_a_reason(project: Path, backbone: Path) -> None:
    two_versions(project, backbone, noise=5.0)
    with pytest.raises(
        MmlopError, match=r"has no other version @previous to go back to: name one with --to \(been champion: 1\)"
    ):
        registry.rollback("toy", "too early")
    registry.promote("toy", 2, RULE)
    decision = registry.rollback("toy", " confuses cats and dogs ")
    assert (decision.outcome, decision.champion) == ("rolled_back", 2)
    assert decision.reason == "Version 1 is champion again, version 2 was rolled back: confuses cats and dogs"
    assert aliases() == {1: ("champion",), 2: ("previous",)}
    tags = registry.versions("toy")[0].tags
    assert (tags["mmlop.decision"], tags["mmlop.forced"]) == ("rolled_back", "confuses cats and dogs")
    assert (tags["mmlop.compared_with"], tags["mmlop.reason"]) == ("2", decision.reason)
    assert (
        registry.publish(project / "runs" / "toy", {}).decision is None
    )  # what was rolled back does not come back by itself
    assert registry.rollback("toy", "it was the pictures").champion == 1  # and forward
    assert aliases() == {1: ("previous",), 2: ("champion",)}


def test_a_rollback_goes_to_former_champions_only(project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_versions(project, backbone, noise=5.0)
    registry.promote("toy", 2, RULE)
    folder = make_run(project, "toy", backbone, seed=3)
    registry.register(folder, registry.publish(folder, {}, register=False).run_id)
    for to, says in {
        3: r"Version 3 of mmlop-toy has never been champion \(been: 1, 2\): `mmlop registry promote toy 3 --force REASON`",
        9: "mmlop-toy has no version '9'; its versions: 1, 2, 3",
    }.items():
        with pytest.raises(MmlopError, match=says):
            registry.rollback("toy", "broken", to)
    with pytest.raises(MmlopError, match="--reason needs a reason of 1 to 1000 characters"):
        registry.rollback("toy", " ")
    with pytest.raises(MmlopError, match="no registered adapter 'mmlop-toi'"):
        registry.rollback("toi", "broken")
    assert registry.rollback("toy", "broken", 2).outcome == "unchanged"
    registry.promote("toy", 3, RULE, force="new camera")
    assert registry.rollback("toy", "blind", 1).champion == 3
    assert aliases() == {1: ("champion",), 2: (), 3: ("previous",)}
    shutil.rmtree(project / "mlartifacts")
    monkeypatch.setenv("MMLOP_CACHE", str(project / "another"))
    with pytest.raises(MmlopError, match="models:/mmlop-toy/3 is no adapter of mmlop"):
        registry.rollback("toy", "broken", 3)
    assert aliases() == {1: ("champion",), 2: (), 3: ("previous",)}


def test_a_rollback_does_not_undo_what_nobody_looked_at(
    project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_versions(project, backbone, noise=5.0)
    registry.promote("toy", 2, RULE)
    folder = make_run(project, "toy", backbone, seed=3)
    registry.register(folder, registry.publish(folder, {}, register=False).run_id)
    claim, others = promotion.claim, [lambda: registry.promote("toy", 3, RULE, force="another"), lambda: None]

    def late(*arguments: Any) -> bool:  # another process is between our look and our claim
        if others:
            others.pop(0)()
        return claim(*arguments)

    monkeypatch.setattr(promotion, "claim", late)
    with pytest.raises(
        MmlopError, match=r"Nothing was rolled back, since version 3 of mmlop-toy became champion meanwhile"
    ):
        registry.rollback("toy", "broken")
    assert aliases() == {1: (), 2: ("previous",), 3: ("champion",)}
    others[:] = [lambda: registry.rollback("toy", "the same idea", 1)]
    assert registry.rollback("toy", "broken", 1).outcome == "unchanged"
    assert aliases() == {1: ("champion",), 2: (), 3: ("previous",)}


def test_a_rollback_that_was_cut_off_is_finished_not_undone(project: Path, backbone: Path) -> None:
    two_versions(project, backbone, noise=5.0)
    registry.promote("toy", 2, RULE)
    with cut_off(project, "registered_model_aliases", "alias", "champion"), pytest.raises(TrackingUnavailable):
        registry.rollback("toy", "broken")
    assert aliases() == {1: (), 2: ("champion", "previous")}
    assert registry.rollback("toy", "broken").champion == 2
    assert aliases() == {1: ("champion",), 2: ("previous",)}


def test_what_is_decided_is_decided_against_the_champion_of_now(
    project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another champion while the pictures are scored: they are scored again, against that one."""
    two_versions(project, backbone, noise=5.0)
    folder = make_run(project, "toy", backbone, seed=3, noise=5.0)
    registry.register(folder, registry.publish(folder, {}, register=False).run_id)
    challenge, met = champion.challenge, []

    def slow(before: Path, after: Path, *arguments: Any) -> champion.Challenge:
        met.append(identity(before))
        if len(met) == 1:
            registry.promote("toy", 2, RULE, force="meanwhile")
        return challenge(before, after, *arguments)

    monkeypatch.setattr(champion, "challenge", slow)
    decision = registry.promote("toy", 3, RULE)
    first, second, third = registry.versions("toy")
    assert met == [first.identity, second.identity]
    assert (decision.outcome, decision.champion) == ("kept", 2)
    assert (third.tags["mmlop.decision"], third.tags["mmlop.compared_with"]) == ("kept", "2")
    assert aliases() == {1: ("previous",), 2: ("champion",), 3: ()}


def test_a_tie_keeps_the_champion(project: Path, backbone: Path) -> None:
    registry.publish(make_run(project, "toy", backbone, seed=1), {})
    same = make_run(project, "toy", backbone, seed=1)
    info = json.loads((same / "adapter" / "adapter.json").read_text())
    info["origin"]["mode"] = {"device": "another"}  # another adapter with the same factors
    (same / "adapter" / "adapter.json").write_text(json.dumps(info))
    record = json.loads((same / "run.json").read_text())
    record["deliverable"]["identity"] = identity(same / "adapter")
    (same / "run.json").write_text(json.dumps(record))
    published = registry.publish(same, {})
    assert published.decision is not None
    assert published.decision.outcome == "kept"
    assert published.decision.challenge is not None
    assert published.decision.challenge.comparison.champion == published.decision.challenge.comparison.challenger
    assert aliases() == {1: ("champion",), 2: ()}


def test_too_few_pictures_ask_a_person(project: Path, backbone: Path) -> None:
    two_versions(project, backbone, noise=5.0)
    decision = registry.promote("toy", 2, config.Champion(level=0.05, pictures=41))
    assert decision.outcome == "too_few"
    assert "40 validation pictures" in decision.reason
    assert "`mmlop registry promote toy 2 --force REASON`" in decision.reason
    assert aliases() == {1: ("champion",), 2: ()}
    with pytest.raises(MmlopError, match="--force needs a reason"):
        registry.promote("toy", 2, RULE, force=" ")
    assert registry.promote("toy", 2, RULE, force="seen by eye").outcome == "forced"
    assert aliases() == {1: ("previous",), 2: ("champion",)}
    assert registry.versions("toy")[1].tags["mmlop.forced"] == "seen by eye"
    registry.promote("toy", 1, RULE, force="back again")
    assert aliases() == {1: ("champion",), 2: ("previous",)}


def test_pictures_either_was_trained_on_do_not_count(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone, seed=1)
    record = json.loads((folder / "run.json").read_text())
    manifest = json.loads((project / "data" / "toy" / "manifest.json").read_text())
    record["deliverable"]["trained_on"] = [row[3] for row in manifest["pictures"] if row[2] == "val"][:6]
    (folder / "run.json").write_text(json.dumps(record))
    registry.publish(folder, {})
    published = registry.publish(make_run(project, "toy", backbone, seed=2), {})
    assert published.decision is not None
    assert published.decision.challenge is not None
    assert published.decision.challenge.comparison.pictures == 34


def test_adapters_of_two_backbones_are_compared(project: Path, backbone: Path, tmp_path: Path) -> None:
    registry.publish(make_run(project, "toy", save_backbone(tmp_path / "other", seed=5)), {})
    published = registry.publish(make_run(project, "toy", backbone, seed=2), {})
    assert published.decision is not None
    assert published.decision.challenge is not None


def test_a_champion_that_cannot_be_scored_here_stays(project: Path, backbone: Path, tmp_path: Path) -> None:
    lost = save_backbone(tmp_path / "lost", seed=6)
    registry.publish(make_run(project, "toy", lost), {})
    shutil.rmtree(lost)
    published = registry.publish(make_run(project, "toy", backbone, seed=2), {})
    assert published.decision is not None
    assert published.decision.outcome == "not_compared"
    assert "cannot be compared here" in published.decision.reason
    assert "--force REASON" in published.decision.reason


def test_resolve_finds_the_same_adapter_by_every_name(
    project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(project, "toy", backbone)
    published = registry.publish(folder, {})
    uris = ("@champion", "/1", "/latest")
    for uri in (str(folder / "adapter"), f"runs:/{published.run_id}/adapter", *(f"models:/mmlop-toy{u}" for u in uris)):
        assert identity(registry.resolve(uri)) == published.version.identity  # type: ignore[union-attr]
    assert registry.resolve(str(folder / "adapter")) == folder / "adapter"
    (stored,) = (project / "mlartifacts").rglob("adapter.json")
    stored.write_text(stored.read_text() + " ")
    registry.resolve("models:/mmlop-toy/1")  # fetched and checked before
    monkeypatch.setenv("MMLOP_CACHE", str(project / "another"))
    with pytest.raises(MmlopError, match="was changed after it was registered"):
        registry.resolve("models:/mmlop-toy/1")
    shutil.rmtree(stored.parent)
    with pytest.raises(MmlopError, match="adapter"):
        registry.resolve("models:/mmlop-toy/1")


def test_what_does_not_exist_is_one_sentence_with_what_does(project: Path, backbone: Path) -> None:
    with pytest.raises(MmlopError, match="no registered adapter 'mmlop-toy'; registered: none yet"):
        registry.resolve("models:/mmlop-toy@champion")
    with pytest.raises(MmlopError, match="runs with an adapter: none yet"):
        registry.resolve("runs:/abc/adapter")
    run = registry.publish(make_run(project, "toy", backbone), {}).run_id
    for uri, wanted in {
        "models:/mmlop-toi@champion": "no registered adapter 'mmlop-toi'; registered: mmlop-toy",
        "models:/mmlop-toy@champoin": "no alias 'champoin'; its aliases: champion; its versions: 1",
        "models:/mmlop-toy/7": "no version '7'; its versions: 1",
        "models:/mmlop-toy": "names no version: add @champion",
        "models:/a:b@c": "no registered adapter 'a:b'",
        "runs:/abc/adapter": f"no run 'abc'; runs with an adapter: {run}",
        f"runs:/{run}/model": f"run {run} holds 'adapter' alone",
        "s3://bucket/adapter": "give a folder, models:/NAME@champion",
        "nowhere": "nowhere is no adapter, it does not exist",
        "runs/toy": "but runs/toy/adapter is: give that",
        "data": "data is no adapter, it has no adapter.json",
    }.items():
        with pytest.raises(MmlopError) as caught:
            registry.resolve(uri)
        assert wanted in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(MmlopError, match="has no version '5'"):
        registry.promote("toy", 5, RULE)
    with pytest.raises(MmlopError, match="no registered adapter 'mmlop-toi'"):
        registry.versions("toi")


def test_sync_restores_a_lost_store_and_names_what_it_cannot(
    project: Path, backbone: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(project, "other")
    make_run(project, "toy", backbone)
    broken = make_run(project, "other", backbone)
    assert [one.dataset for one in registry.sync(project) if one.new] == ["other", "toy"]
    assert not any(one.new for one in registry.sync(project))
    lost = project.rename(project.with_name("moved"))  # the database stays behind
    (lost / "mlflow.db").unlink()
    shutil.copy(database, lost)
    monkeypatch.chdir(lost)
    (lost / "runs" / broken.name / "run.json").write_text("{}")
    with pytest.raises(MmlopError, match=r"other/run\.json is no record of a training"):
        registry.sync(lost)
    assert [version.name for version in registry.versions()] == ["mmlop-toy"]
    with pytest.raises(MmlopError, match=r"runs/toi/run\.json does not exist .*toy, other"):
        registry.sync(lost, "toi")


def test_the_pyfunc_model_predicts_what_the_classifier_does(project: Path, backbone: Path) -> None:
    folder = make_run(project, "toy", backbone)
    run = registry.publish(folder, {}).run_id
    pictures = [file.read_bytes() for file in sorted((project / "data" / "toy" / "pictures").glob("*.png"))[:5]]
    wanted = Classifier.load(folder / "adapter").predict(pictures)
    model = store.mlflow().pyfunc.load_model(f"runs:/{run}/adapter")
    answers = model.predict(pictures)
    assert [one.label for one in answers] == [one.label for one in wanted]
    assert [tuple(one.scores) for one in answers] == [one.labels for one in wanted]
    with pytest.raises(Exception, match="no readable picture"):
        model.predict([b"text"])
    requirements = Path(store.mlflow().artifacts.download_artifacts(f"runs:/{run}/adapter/requirements.txt")).read_text()
    assert "torch==" in requirements


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def invocation(address: str, pictures: list[bytes]) -> urllib.request.Request:
    body = json.dumps({"inputs": [base64.b64encode(picture).decode() for picture in pictures]}).encode()
    return urllib.request.Request(f"{address}/invocations", body, {"content-type": "application/json"})


@contextlib.contextmanager
def running(arguments: list[str], port: int, health: str, log: Path) -> Iterator[str]:
    """A command of mlflow's that serves HTTP, until the block ends."""
    address = f"http://127.0.0.1:{port}"
    here = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}{health}", timeout=2):
                break
            time.sleep(0.2)
        else:
            raise AssertionError(log.read_text())
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_results_of_an_outage_are_synced_once(project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, port = make_run(project, "toy", backbone), free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(store, "PAUSES", (0.1, 0.1))
    for action in (lambda: registry.publish(folder, {}), lambda: registry.sync(project), registry.versions):
        with pytest.raises(TrackingUnavailable):
            action()
    server = ["server", "--backend-store-uri", f"sqlite:///{project}/mlflow.db"]
    with running([*server, "--artifacts-destination", str(project / "kept")], port, "/health", project / "server.log"):
        (first,) = registry.sync(project)
        assert first.new
        (second,) = registry.sync(project, "toy")
        assert (second.new, second.run_id) == (False, first.run_id)
        assert [version.aliases for version in registry.versions()] == [("champion",)]
        for uri in ("models:/mmlop-toy@champion", f"runs:/{first.run_id}/adapter"):
            assert identity(registry.resolve(uri)) == identity(folder / "adapter")
        two = registry.publish(make_run(project, "toy", backbone, seed=2), {})
        assert two.decision is not None
        assert two.decision.challenge is not None


@pytest.mark.slow
def test_a_served_model_answers_base64_pictures(project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, port = make_run(project, "toy", backbone), free_port()
    registry.publish(folder, {})
    pictures = [file.read_bytes() for file in sorted((project / "data" / "toy" / "pictures").glob("*.png"))[:3]]
    wanted = Classifier.load(folder / "adapter").predict(pictures)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    serve = ["models", "serve", "--model-uri", "models:/mmlop-toy@champion", "--env-manager", "local"]
    with running(serve, port, "/ping", project / "serve.log") as address:
        with urllib.request.urlopen(invocation(address, pictures), timeout=60) as response:
            answers = json.load(response)["predictions"]
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(invocation(address, [b"text"]), timeout=60)
    assert [one["label"] for one in answers] == [one.label for one in wanted]
    assert caught.value.code == 400


def test_outside_a_project_there_is_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmlopError, match="in no mmlop project"):
        registry.versions()
    assert not list(tmp_path.iterdir())
