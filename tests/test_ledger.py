"""The ledger of champions on real stores: written once, in whatever order the requests of two processes arrive, and
wherever one of them is killed."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from make_run import make_run, relabel
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow_server import LosingProxy, MlflowServer
from together import python, said

from mmlop import champion, config, ledger, promotion, registry, store
from mmlop.champion import Decision
from mmlop.data import datasets
from mmlop.errors import MmlopError
from mmlop.versions import Version, version_of, versions_of

pytest_plugins = ["project_fixtures"]

RULE = config.Champion()
NUMBERS = itertools.count()


def make_versions(client: Any, count: int, source: str = "s3://nowhere/adapter") -> str:
    """A registered model of so many versions, each of a run that has ended; its data set. They need no files: what is
    promoted by hand is not looked into."""
    name = f"toy{next(NUMBERS)}"
    if client.get_experiment_by_name("versions") is None:
        client.create_experiment("versions")
    experiment = client.get_experiment_by_name("versions").experiment_id
    client.create_registered_model(f"mmlop-{name}")
    for _ in range(count):
        run_id = client.create_run(experiment).info.run_id
        client.set_terminated(run_id)
        client.create_model_version(f"mmlop-{name}", source, run_id)
    return name


def force(dataset: str, version: int) -> Decision:
    return promotion.promote(dataset, version, RULE, force=f"version {version}, by eye")


def chain(client: Any, dataset: str) -> list[tuple[int | None, int]]:
    return [(entry.old, entry.new) for entry in ledger.read(client, f"mmlop-{dataset}").entries]


def aliases(client: Any, dataset: str) -> dict[str, int]:
    return {alias: int(to) for alias, to in client.get_registered_model(f"mmlop-{dataset}").aliases.items()}


def check(client: Any, dataset: str) -> list[tuple[int | None, int]]:
    """One truth: every champion replaced the one before it, and aliases and tags are what the last entry says."""
    found = ledger.read(client, f"mmlop-{dataset}")
    entries = chain(client, dataset)
    for before, after in itertools.pairwise(entries):
        assert after[0] == before[1], entries
    for entry in found.entries:
        assert entry.tags.get("mmlop.compared_with") == (None if entry.old is None else str(entry.old))
    last = found.entries[-1]
    wanted = {"champion": last.new} | ({} if last.old is None else {"previous": last.old})
    assert aliases(client, dataset) == wanted
    assert found.champion is not None
    assert {key: found.champion.tags[key] for key in last.tags} == last.tags
    assert found.champion.tags.keys() & {"mmlop.forced"} == last.tags.keys() & {"mmlop.forced"}
    return entries


@pytest.fixture
def client(project: Path) -> Any:
    return store.connect()


# ---- what it rests on ----


def written_once(client: Any) -> None:
    """A param of an ended run is written once, by log_param and by log_batch, also by many at once."""
    run_id = versions_of(client, f"mmlop-{make_versions(client, 1)}")[0].run_id
    client.log_param(run_id, "n", "first")
    client.log_param(run_id, "n", "first")
    for other in (
        lambda: client.log_param(run_id, "n", "second"),
        lambda: client.log_batch(run_id, params=[Param("n", "second")]),
        lambda: client.log_batch(run_id, params=[Param("m", "new"), Param("n", "second")]),
    ):
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            other()
    assert client.get_run(run_id).data.params == {"n": "first"}  # nor is half of a batch written
    for key, log in {
        "one": lambda value: client.log_param(run_id, "one", value),
        "batch": lambda value: client.log_batch(run_id, params=[Param("batch", value)]),
    }.items():
        together, logged = threading.Barrier(8), []

        def attempt(number: int, log: Any = log, together: Any = together, logged: Any = logged) -> None:
            together.wait()
            try:
                log(str(number))
            except MlflowException:
                return
            logged.append(str(number))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(attempt, range(8)))
        assert [client.get_run(run_id).data.params[key]] == logged


def test_a_param_is_written_once(client: Any) -> None:
    written_once(client)


def test_of_many_claims_of_one_entry_one_is_true(client: Any) -> None:
    dataset = make_versions(client, 8)
    before, together = ledger.settled(client, f"mmlop-{dataset}"), threading.Barrier(8)

    def attempt(version: int) -> bool:
        together.wait()
        return ledger.claim(client, before, None, version, {"mmlop.decision": "first"})

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(attempt, range(1, 9)))
    assert claimed.count(True) == 1
    assert chain(client, dataset) == [(None, claimed.index(True) + 1)]


def test_the_same_claim_twice_is_two_claims(client: Any) -> None:
    dataset = make_versions(client, 1)
    before = ledger.read(client, f"mmlop-{dataset}")
    assert ledger.claim(client, before, None, 1, {})
    assert not ledger.claim(client, before, None, 1, {})


# ---- one after the other ----


def test_champions_are_numbered_and_tell_how_they_came(client: Any) -> None:
    dataset = make_versions(client, 3)
    for version in (2, 1, 3):
        force(dataset, version)
    assert check(client, dataset) == [(None, 2), (2, 1), (1, 3)]
    found = ledger.read(client, f"mmlop-{dataset}")
    assert [entry.outcome for entry in found.entries] == ["first", "forced", "forced"]
    assert found.entries[2].reason == "Version 3 replaces version 1 as champion by hand: version 3, by eye"
    assert found.run_id == found.versions[0].run_id


def test_an_alias_set_by_hand_is_honoured(client: Any) -> None:
    dataset = make_versions(client, 3)
    for version in (1, 2):
        force(dataset, version)
    client.set_registered_model_alias(f"mmlop-{dataset}", "champion", "3")
    promotion.finish(dataset)
    assert aliases(client, dataset) == {"champion": 3, "previous": 1}
    assert force(dataset, 2).champion == 3
    assert chain(client, dataset)[-1] == (3, 2)
    client.delete_registered_model_alias(f"mmlop-{dataset}", "champion")
    assert force(dataset, 1).outcome == "first"
    assert chain(client, dataset)[-1] == (None, 1)


def test_a_ledger_that_was_deleted_begins_again_where_the_alias_is(client: Any) -> None:
    dataset = make_versions(client, 3)
    for version in (1, 2):
        force(dataset, version)
    first, second, _ = versions_of(client, f"mmlop-{dataset}")
    client.delete_run(first.run_id)
    assert ledger.read(client, f"mmlop-{dataset}").run_id == second.run_id
    force(dataset, 3)
    assert check(client, dataset) == [(2, 3)]
    client.delete_model_version(f"mmlop-{dataset}", "2")
    force(dataset, 1)
    assert check(client, dataset) == [(3, 1)]
    client.restore_run(first.run_id)
    promotion.finish(dataset)
    assert aliases(client, dataset) == {"champion": 1, "previous": 3}
    for version in versions_of(client, f"mmlop-{dataset}"):
        client.delete_run(version.run_id)
    with pytest.raises(MmlopError, match=rf"No version of mmlop-{dataset} has a run any more.*`mlflow runs restore`"):
        force(dataset, 3)


def test_an_entry_whose_versions_were_deleted_stops_nobody(client: Any) -> None:
    dataset = make_versions(client, 4)
    force(dataset, 2)
    before = ledger.read(client, f"mmlop-{dataset}")
    assert ledger.claim(client, before, 2, 3, {"mmlop.decision": "forced"})  # and killed
    for version in ("2", "3"):
        client.delete_model_version(f"mmlop-{dataset}", version)
    assert force(dataset, 4).outcome == "first"
    assert aliases(client, dataset) == {"champion": 4}


def test_an_entry_nobody_can_read_is_one_sentence(client: Any) -> None:
    dataset = make_versions(client, 1)
    run_id = versions_of(client, f"mmlop-{dataset}")[0].run_id
    client.log_param(run_id, "mmlop.champion.1", "by hand")
    with pytest.raises(MmlopError, match=rf"Param mmlop.champion.1 of run {run_id} is no entry of the ledger"):
        force(dataset, 1)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001])
def test_a_reason_is_short_and_not_empty(client: Any, reason: str) -> None:
    dataset = make_versions(client, 1)
    with pytest.raises(MmlopError, match="needs a reason of 1 to 1000 characters"):
        promotion.promote(dataset, 1, RULE, force=reason)


def test_the_longest_reason_is_kept_whole(client: Any) -> None:
    dataset = make_versions(client, 2)
    force(dataset, 1)
    reason = '"' * 999 + "ü"  # a quotation mark takes two characters
    promotion.promote(dataset, 2, RULE, force=reason)
    check(client, dataset)
    assert ledger.read(client, f"mmlop-{dataset}").entries[-1].tags["mmlop.forced"] == reason


# ---- a process that is killed ----


class Killed(BaseException):
    pass


class Between:
    """A client that calls ``step`` before each of its requests."""

    def __init__(self, client: Any, step: Callable[[str], None]) -> None:
        self._client, self._step = client, step

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self._step(name)
            return getattr(self._client, name)(*arguments, **named)

        return call


def killed_after(requests: int, client: Any, action: Callable[[], Any], patch: pytest.MonkeyPatch) -> list[str]:
    """Do something in a process that is killed before its next request. Returns the requests that were made."""
    made: list[str] = []

    def step(name: str) -> None:
        if len(made) == requests:
            raise Killed
        made.append(name)

    with patch.context() as patched:
        patched.setattr(promotion, "connect", lambda: Between(client, step))
        with suppress(Killed):
            action()
    return made


def requests_of(client: Any, prepare: Callable[[], Any], act: Callable[[str], Any], patch: pytest.MonkeyPatch) -> list[str]:
    dataset = prepare()
    return killed_after(10_000, client, lambda: act(dataset), patch)


@pytest.mark.slow
def test_wherever_a_promotion_is_killed_the_next_one_finishes_it(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare() -> str:
        dataset = make_versions(client, 3)
        force(dataset, 1)
        client.set_model_version_tag(f"mmlop-{dataset}", "2", "mmlop.decision", "too_few")  # of an earlier decision
        client.set_model_version_tag(f"mmlop-{dataset}", "2", "mmlop.p_value", "0.5")
        return dataset

    made = requests_of(client, prepare, lambda dataset: force(dataset, 2), monkeypatch)
    claimed = made.index("log_param")
    assert len(made) - claimed > 10
    for requests in (0, claimed // 2, *range(claimed, len(made))):
        dataset = prepare()
        assert killed_after(requests, client, lambda dataset=dataset: force(dataset, 2), monkeypatch) == made[:requests]
        entered = chain(client, dataset)
        assert entered == [(None, 1), (1, 2)][: 2 if requests > claimed else 1]
        if requests <= claimed:  # nothing was decided: nothing is to be seen
            assert aliases(client, dataset) == {"champion": 1}
        promotion.finish(dataset)
        assert check(client, dataset) == entered
        if requests > claimed:
            tags = version_of(client, f"mmlop-{dataset}", "2").tags
            assert (tags["mmlop.decision"], tags["mmlop.forced"]) == ("forced", "version 2, by eye")
            assert "mmlop.p_value" not in tags
        force(dataset, 3)
        assert check(client, dataset) == [*entered, (entered[-1][1], 3)]


def test_a_promotion_that_was_cut_off_returns_its_decision(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_versions(client, 2)
    force(dataset, 1)
    made = requests_of(client, lambda: dataset, lambda dataset: force(dataset, 2), monkeypatch)
    other = make_versions(client, 2)
    force(other, 1)
    killed_after(made.index("set_registered_model_alias"), client, lambda: force(other, 2), monkeypatch)
    assert aliases(client, other) == {"champion": 1}
    decision = promotion.promote(other, 2, RULE)  # not by hand this time: it is decided
    assert (decision.outcome, decision.champion) == ("forced", 1)
    assert check(client, other) == [(None, 1), (1, 2)]
    assert promotion.promote(other, 2, RULE).outcome == "unchanged"


# ---- two at once ----


class Turns:
    """Threads that make one request at a time, in the order that ``choose`` draws."""

    def __init__(self, client: Any, actions: list[Callable[[], Any]]) -> None:
        self._client, self._actions = client, actions
        self._may = [threading.Semaphore(0) for _ in actions]
        self._waits = [threading.Semaphore(0) for _ in actions]
        self._over = [False for _ in actions]
        self._mine = threading.local()
        self.failed: list[BaseException] = []

    def connect(self) -> Any:
        return Between(self._client, lambda _: self._pause())

    def _pause(self) -> None:
        number = self._mine.number
        self._waits[number].release()
        self._may[number].acquire()

    def _work(self, number: int) -> None:
        self._mine.number = number
        try:
            self._actions[number]()
        except BaseException as error:
            self.failed.append(error)
        self._over[number] = True
        self._waits[number].release()

    def run(self, choose: Iterator[int]) -> None:
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(len(self._actions))]
        for thread, waits in zip(threads, self._waits, strict=True):
            thread.start()
            waits.acquire()
        while running := [number for number, over in enumerate(self._over) if not over]:
            number = running[next(choose) % len(running)]
            self._may[number].release()
            self._waits[number].acquire()
        for thread in threads:
            thread.join()


def in_turns(client: Any, actions: list[Callable[[], Any]], order: list[tuple[int, int]], patch: Any) -> None:
    """``order``: who makes how many requests; then they take turns."""
    chosen = itertools.chain.from_iterable(itertools.repeat(who, times) for who, times in order)
    turns = Turns(client, actions)
    with patch.context() as patched:
        patched.setattr(promotion, "connect", turns.connect)
        turns.run(itertools.chain(chosen, itertools.count()))
    if turns.failed:
        raise turns.failed[0]


ORDERS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 25)), max_size=12)


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],  # an example takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=ORDERS)
def test_in_whatever_order_requests_arrive_there_is_one_truth(
    order: list[tuple[int, int]], client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter").mkdir(exist_ok=True)
    (tmp_path / "adapter" / "adapter.json").touch()  # what a rollback looks for
    dataset = make_versions(client, 4, str(tmp_path / "adapter"))
    for version in (1, 2):
        force(dataset, version)

    def back() -> None:
        with suppress(MmlopError):  # where another one became champion meanwhile
            promotion.rollback(dataset, "broken")

    in_turns(client, [lambda: force(dataset, 3), lambda: force(dataset, 4), back], order, monkeypatch)
    entries = check(client, dataset)
    assert {3, 4} <= {new for _, new in entries}
    assert len(entries) in (4, 5)


@pytest.mark.slow
def test_a_slow_writer_does_not_undo_a_newer_champion(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stands still before each of its requests in turn, while another promotes from start to end."""
    dataset = make_versions(client, 3)
    force(dataset, 1)
    made = requests_of(client, lambda: dataset, lambda dataset: force(dataset, 2), monkeypatch)
    for requests in range(made.index("log_param") + 1, len(made) + 1):
        dataset = make_versions(client, 3)
        force(dataset, 1)
        actions = [lambda d=dataset: force(d, 2), lambda d=dataset: force(d, 3)]
        in_turns(client, actions, [(0, requests), (1, 10_000)], monkeypatch)
        assert check(client, dataset) == [(None, 1), (1, 2), (2, 3)]


def test_whoever_comes_second_meets_the_new_champion(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_versions(client, 3)
    force(dataset, 1)
    claimed = requests_of(client, lambda: dataset, lambda dataset: force(dataset, 2), monkeypatch).index("log_param")
    dataset = make_versions(client, 3)
    force(dataset, 1)
    met: list[int | None] = []
    actions = [lambda: met.append(force(dataset, 2).champion), lambda: force(dataset, 3)]
    in_turns(client, actions, [(0, claimed), (1, 10_000)], monkeypatch)  # decided, and not yet claimed
    assert met == [3]
    assert check(client, dataset) == [(None, 1), (1, 3), (3, 2)]


# ---- several processes, clones and one server ----

# Everything is imported once and then forked, so that the processes reach the server in the same moment.
PROMOTE = """
import json, multiprocessing, os, sys
from mmlop import backbone, champion, config, registry, store

def promote(job):
    folder, version, force = job
    os.chdir(folder)
    barrier.wait(60)
    return registry.promote("toy", version, config.Champion(pictures=30), force).outcome

store.mlflow()
fork = multiprocessing.get_context("fork")
jobs = json.loads(sys.argv[1])
barrier = fork.Barrier(len(jobs))
with fork.Pool(len(jobs)) as pool:
    print(json.dumps(pool.map(promote, jobs, chunksize=1)))
"""
KILLED = """
import os, signal
from mlflow import MlflowClient
from mmlop import config, registry

MlflowClient.set_registered_model_alias = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
registry.promote("toy", 7, config.Champion(), force="killed on the way")
"""


@pytest.mark.slow
def test_processes_of_two_clones_promote_at_once_on_one_server(
    project: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path / "server")
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        client = store.connect()
        written_once(client)
        clones = [project, shutil.copytree(project, tmp_path / "clone")]
        for seed in range(1, 8):
            folder = make_run(project, "toy", backbone, seed=seed, noise=5.0 if seed < 5 else 0.0)
            registry.register(folder, registry.publish(folder, {}, register=False).run_id)
        for clone in clones:  # the fifth is a good one
            relabel(clone, "toy", registry.resolve("models:/mmlop-toy/5"), wrong=2)
        by_hand = {1: "one", 3: "three", 6: "six"}
        jobs = [[str(clones[version % 2]), version, by_hand.get(version)] for version in range(1, 7)]
        outcomes = json.loads(said(python("-c", PROMOTE, json.dumps(jobs), folder=project)))
        entries = check(client, "toy")
        decided = dict(zip(range(1, 7), outcomes, strict=True))
        assert {new for _, new in entries} == {one for one, outcome in decided.items() if outcome != "kept"}
        for version in versions_of(client, "mmlop-toy")[:6]:
            assert version.tags["mmlop.decision"] == decided[version.version]
            if "mmlop.p_value" in version.tags:  # decided by the rule, against the champion that it says
                _scored_against(version, entries, project)

        killed = python("-c", KILLED, folder=clones[1])
        assert killed.wait(timeout=120) == -signal.SIGKILL
        killed.communicate()
        assert aliases(client, "toy")["champion"] == entries[-1][1]
        assert promotion.promote("toy", 2, RULE, force="the next one").champion == 7
        assert check(client, "toy") == [*entries, (entries[-1][1], 7), (7, 2)]
        assert version_of(client, "mmlop-toy", "7").tags["mmlop.forced"] == "killed on the way"

        with LosingProxy(server.port, ["/runs/log-parameter"]) as proxy:  # claimed, and not told so
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
            assert force("toy", 3).champion == 2
            assert proxy.lost
            proxy.shutdown()
        assert check(client, "toy")[-2:] == [(7, 2), (2, 3)]
    finally:
        server.kill()


def _scored_against(version: Version, entries: list[tuple[int | None, int]], project: Path) -> None:
    met = int(version.tags["mmlop.compared_with"])
    assert met in {new for _, new in entries}
    data = datasets.fetched("toy", config.load(), project)
    folders = [registry.resolve(f"models:/mmlop-toy/{number}") for number in (met, version.version)]
    found = champion.challenge(folders[0], folders[1], data, ()).comparison
    assert version.tags["mmlop.champion_accuracy"] == f"{found.champion:.4f}"
    assert version.tags["mmlop.challenger_accuracy"] == f"{found.challenger:.4f}"
