"""From a request's name to an adapter: folders, a registry that changes, one that is down, and names that are attempts."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tiny_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_adapter import make_adapter
from make_run import make_run
from mlflow_server import MlflowServer

from mmlop import registry, store
from mmlop.adapter import identity
from mmlop.backbone import Backbone, wrap
from mmlop.errors import MmlopError
from mmlop.serving import fresh
from mmlop.serving.catalogue import Catalogue, Found, UnknownAdapter
from mmlop.serving.fresh import Fresh
from mmlop.serving.registered import Reference
from mmlop.store import TrackingUnavailable

pytest_plugins = ["project_fixtures"]

SHORT = 0.05  # seconds, of refresh


@pytest.fixture(scope="module")
def clip() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture
def zoo(clip: Backbone, tmp_path: Path) -> Path:
    """A folder of adapters beside one that is not served."""
    for place, name in enumerate(("zoo/cats", "zoo/dogs", "alone", "secret")):
        make_adapter(clip, seed=place).save(tmp_path / name)
    (tmp_path / "zoo" / "notes.txt").write_text("no adapter")
    (tmp_path / "zoo" / "empty").mkdir()
    return tmp_path / "zoo"


def soon(call: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether ``call`` becomes true."""
    deadline = time.monotonic() + seconds
    while not (done := call()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def unknown(catalogue: Catalogue, name: str) -> str:
    with pytest.raises(UnknownAdapter) as caught:
        catalogue.find(name)
    return str(caught.value)


# Folders


def test_folders_have_their_own_names_or_given_ones(zoo: Path) -> None:
    alone = zoo.parent / "alone"
    catalogue = Catalogue([str(zoo), f"{alone}/", f"mine={alone}"])
    assert catalogue.names() == ["alone", "cats", "dogs", "mine"]
    assert catalogue.find("cats") == Found("cats", zoo / "cats", identity(zoo / "cats"), None, str(zoo / "cats"))
    assert catalogue.find("mine").folder == alone
    assert unknown(catalogue, "cat") == "There is no adapter 'cat'; there are: cats, alone, dogs, mine."


def test_the_current_folder_has_a_name_too(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(zoo / "dogs")
    assert Catalogue(["."]).names() == ["dogs"]


def test_an_equals_sign_in_a_path_names_nothing(zoo: Path) -> None:
    odd = (zoo / "cats").rename(zoo / "rank=2")
    assert Catalogue([str(odd)]).names() == ["rank=2"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["{0}/nothing"], "{0}/nothing does not exist: give an adapter's folder, or a folder of such."),
        (["{0}/empty"], "{0}/empty is no adapter and holds none: give an adapter's folder, or a folder of such."),
        (["many={0}"], "{0} is no adapter, so it cannot be named 'many': it has no adapter.json."),
        (["{0}", "{0}/cats"], "Two adapters are named 'cats', one of them in {0}/cats: give one as NAME=FOLDER."),
        (["a={0}/cats", "a={0}/dogs"], "Two adapters are named 'a', one of them in {0}/dogs: give one as NAME=FOLDER."),
        (["{0}/cats", "cats=models:/mmlop-x"], "Two adapters are named 'cats', one of them models:/mmlop-x: give one as"),
    ],
)
def test_what_is_given_wrongly_is_said_at_the_start(zoo: Path, given: list[str], sentence: str) -> None:
    with pytest.raises(MmlopError) as caught:
        Catalogue([one.format(zoo) for one in given])
    assert str(caught.value).startswith(sentence.format(zoo))


def test_folders_come_change_and_go(zoo: Path, clip: Backbone) -> None:
    catalogue = Catalogue([str(zoo)], refresh=SHORT)
    before = catalogue.find("cats").identity
    make_adapter(clip, seed=7).save(zoo / "birds")
    assert soon(lambda: catalogue.names() == ["birds", "cats", "dogs"])
    assert catalogue.find("birds").identity == identity(zoo / "birds")
    make_adapter(clip, seed=8).save(zoo / "cats")
    assert catalogue.find("cats").identity == identity(zoo / "cats") != before  # at once
    shutil.rmtree(zoo / "dogs")
    assert "dogs" in unknown(catalogue, "dogs")
    assert soon(lambda: catalogue.names() == ["birds", "cats"])


def test_a_folder_that_is_replaced_again_and_again_is_always_there(zoo: Path, clip: Backbone) -> None:
    versions = [make_adapter(clip, seed=seed) for seed in (1, 2)]
    catalogue, found = Catalogue([str(zoo)]), set[str]()

    def replace() -> None:
        for place in range(40):
            versions[place % 2].save(zoo / "cats")

    thread = threading.Thread(target=replace)
    thread.start()
    while thread.is_alive():
        found.add(catalogue.find("cats").identity)
    thread.join()
    for version in versions:
        version.save(zoo / "cats")
        assert catalogue.find("cats").identity == identity(zoo / "cats")
        assert identity(zoo / "cats") in found


def test_a_holder_that_is_gone_for_a_while_keeps_its_names(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = Catalogue([str(zoo)], refresh=SHORT)
    zoo.rename(tmp_path / "away")
    assert soon(lambda: bool(catalogue.names()) and bool(caplog.messages))
    time.sleep(3 * SHORT)
    assert catalogue.names() == ["cats", "dogs"]
    time.sleep(SHORT)
    assert [message for message in caplog.messages if "does not exist" in message] == caplog.messages[:1]  # once
    assert unknown(catalogue, "cats") == "The files of 'cats' are not there any more."
    (tmp_path / "away").rename(zoo)
    assert catalogue.find("cats").folder == zoo / "cats"


ATTEMPTS = [
    *(
        "",
        ".",
        "..",
        "/",
        "~",
        "../secret",
        "./cats",
        "cats/",
        "cats/.",
        "cats/../cats",
        "/etc/passwd",
        "{secret}",
        "cats\0",
    ),
    *("models:/../../secret", "models:/cats", "models:/{secret}", "models:cats", "%2e%2e", "%2e%2e/secret", "..%2fsecret"),
    *("file://{secret}", "file:{secret}", "runs:/0/adapter", "..\\secret", "CATS", " cats", "cats@champion", "cats/1", "*"),
    *("mmlop-x@../../secret", "mmlop-x/../secret", "mmlop-x/..", "secret", "empty", "notes.txt", "cats/adapter.json"),
]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_name_reaches_what_was_not_given(zoo: Path, attempt: str) -> None:
    assert "There is no adapter" in unknown(Catalogue([str(zoo)]), attempt.format(secret=zoo.parent / "secret"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=30) | st.text("./%2ef~\\cats", max_size=12))
def test_only_the_given_names_are_known(zoo: Path, name: str) -> None:
    catalogue = Catalogue([str(zoo)])
    if name in ("cats", "dogs"):
        assert catalogue.find(name).name == name
    else:
        unknown(catalogue, name)


def test_a_long_name_is_not_repeated_in_full(zoo: Path) -> None:
    assert len(unknown(Catalogue([str(zoo)]), "x" * 5000)) < 200


def test_many_names_are_not_all_listed(zoo: Path) -> None:
    for number in range(30):
        shutil.copytree(zoo / "cats", zoo / f"cats{number}")
    assert unknown(Catalogue([str(zoo)]), "cat") == "There is no adapter 'cat'; there are 32, which GET /adapters lists."


# Registered


@pytest.fixture
def registered(project: Path, clip: Backbone) -> Path:
    """mmlop-toy with versions 1, the champion, and 2."""
    client = store.connect()
    client.create_registered_model("mmlop-toy")
    for seed in (1, 2):
        folder = project / "mlartifacts" / str(seed) / "adapter"
        make_adapter(clip, seed=seed).save(folder)
        client.create_model_version("mmlop-toy", folder.parent.as_uri(), tags={"mmlop.adapter": identity(folder)})
    promote(1)
    return project


def publish(project: Path, backbone: Path) -> None:
    """The same, as training does it."""
    registry.publish(make_run(project, "toy", backbone, seed=1), {})
    folder = make_run(project, "toy", backbone, seed=2)
    registry.register(folder, registry.publish(folder, {}, register=False).run_id)


def promote(version: int, alias: str = "champion") -> None:
    store.connect().set_registered_model_alias("mmlop-toy", alias, str(version))


@pytest.mark.parametrize("given", [[], ["models:/mmlop-toy@champion", "models:/mmlop-toy/2"]])
def test_registered_ones_have_several_names(registered: Path, given: list[str]) -> None:
    catalogue = Catalogue(given)
    assert catalogue.names() == (["mmlop-toy/2", "mmlop-toy@champion"] if given else ["mmlop-toy@champion"])
    first = catalogue.find("mmlop-toy")
    assert (first.name, first.version, first.uri) == ("mmlop-toy@champion", 1, "models:/mmlop-toy/1")
    assert first.identity == identity(first.folder) == registry.versions("toy")[0].identity
    for name in ("mmlop-toy@champion", "models:/mmlop-toy@champion", "models:/mmlop-toy"):
        assert catalogue.find(name) == first
    second = catalogue.find("models:/mmlop-toy/2")
    assert second == catalogue.find("mmlop-toy/2")
    assert (second.name, second.version, second.uri) == ("mmlop-toy/2", 2, "models:/mmlop-toy/2")
    assert second.identity == identity(second.folder) == registry.versions("toy")[1].identity != first.identity


def test_a_registered_one_can_be_given_a_name(registered: Path, zoo: Path) -> None:
    catalogue = Catalogue(["best=models:/mmlop-toy@champion", str(zoo)])
    assert catalogue.names() == ["best", "cats", "dogs"]
    assert (catalogue.find("best").name, catalogue.find("best").uri) == ("best", "models:/mmlop-toy/1")
    assert "There is no adapter 'mmlop-toy'" in unknown(catalogue, "mmlop-toy")


def test_a_run_can_be_given(registered: Path) -> None:
    client, folder = store.connect(), registered / "mlartifacts" / "2" / "adapter"
    run, other = (
        client.create_run(client.create_experiment(name), tags={"mmlop.adapter": identity(folder)}).info.run_id
        for name in ("mmlop-toy", "mmlop-other")
    )
    client.log_artifacts(run, str(folder), "adapter")
    catalogue = Catalogue([f"tried=runs:/{run}/adapter", f"runs:/{run}/adapter"])
    assert catalogue.names() == [f"runs:/{run}/adapter", "tried"]
    assert catalogue.find("tried").identity == identity(folder)
    assert "There is no adapter" in unknown(catalogue, f"runs:/{other}/adapter")


@pytest.mark.parametrize("given", [["models:/mmlop-toy/2"], ["models:/mmlop-toy@champion"]])
def test_what_is_registered_and_was_not_given_cannot_be_asked_for(registered: Path, given: list[str]) -> None:
    catalogue = Catalogue(given)
    for name in {"mmlop-toy/1", "mmlop-toy/2", "mmlop-toy", "mmlop-toy@latest"} - {given[0].removeprefix("models:/")}:
        if not (name == "mmlop-toy" and "@" in given[0]):
            assert f"There is no adapter '{name}'" in unknown(catalogue, name)


def test_what_is_not_registered(registered: Path) -> None:
    catalogue = Catalogue()
    assert unknown(catalogue, "mmlop-toys") == "There is no adapter 'mmlop-toys'; there are: mmlop-toy@champion."
    assert unknown(catalogue, "mmlop-toy@best") == (
        "There is no 'mmlop-toy@best'; mmlop-toy has @champion and versions up to /2."
    )
    for number in ("3", "0", "-1", "01", "1.0", "\u0661", "latest", "", "1/../2", "9" * 5000):
        said = unknown(catalogue, f"mmlop-toy/{number}")
        assert "mmlop-toy has @champion and versions up to /2." in said
        assert len(said) < 200
    for name in ("models:/../../etc", "models://mmlop-toy", "mmlop-toy@champion@champion", "MMLOP-toy", "%", "' OR 1=1 --"):
        unknown(catalogue, name)


def test_nothing_is_registered(project: Path) -> None:
    assert Catalogue().names() == []
    assert unknown(Catalogue(), "mmlop-toy") == "There is no adapter 'mmlop-toy'; none is registered yet."


def test_outside_a_project_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for call in (Catalogue().names, lambda: Catalogue().find("mmlop-toy")):
        with pytest.raises(MmlopError, match="has no registry"):
            call()


def test_a_promotion_goes_live_and_a_version_stays(registered: Path) -> None:
    catalogue = Catalogue(refresh=SHORT)
    first, second = catalogue.find("mmlop-toy"), catalogue.find("mmlop-toy/2")
    promote(2)
    time.sleep(SHORT)
    live = catalogue.find("mmlop-toy")  # the first request after it already
    assert (live.version, live.identity, live.folder) == (2, second.identity, second.folder)
    assert catalogue.find("mmlop-toy/1").identity == first.identity
    assert catalogue.find("mmlop-toy/2") == second
    promote(1, "previous")
    time.sleep(SHORT)
    assert catalogue.find("mmlop-toy@previous").version == 1


def test_between_refreshes_the_registry_is_not_asked(registered: Path) -> None:
    catalogue = Catalogue(refresh=1000)
    catalogue.find("mmlop-toy")
    promote(2)
    (registered / "mlflow.db").unlink()
    assert catalogue.find("mmlop-toy").version == 1
    assert catalogue.names() == ["mmlop-toy@champion"]


def test_what_was_taken_out_of_the_registry_is_gone(registered: Path) -> None:
    catalogue, client = Catalogue(refresh=SHORT), store.connect()
    catalogue.find("mmlop-toy/1")
    client.delete_registered_model_alias("mmlop-toy", "champion")
    time.sleep(SHORT)
    assert catalogue.names() == []
    assert "mmlop-toy has no alias and versions up to /2" in unknown(catalogue, "mmlop-toy")
    client.delete_registered_model("mmlop-toy")
    time.sleep(SHORT)
    assert "none is registered yet" in unknown(catalogue, "mmlop-toy/1")


def test_a_deleted_version_is_unknown(registered: Path) -> None:
    store.connect().delete_model_version("mmlop-toy", "1")
    assert unknown(Catalogue(), "mmlop-toy/1") == "mmlop-toy has no version '1'; its versions: 2."


def test_a_version_whose_files_are_lost_does_not_go_live(
    registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MMLOP_CACHE", str(tmp_path / "own"))
    catalogue = Catalogue(refresh=SHORT)
    first = catalogue.find("mmlop-toy")
    for folder in (registered / "mlartifacts").rglob("adapter"):
        shutil.rmtree(folder)
    promote(2)
    time.sleep(SHORT)
    assert catalogue.find("mmlop-toy") == first
    assert any(
        one.startswith("mmlop-toy@champion stays version 1: models:/mmlop-toy/2 is no adapter") or "The files of" in one
        for one in caplog.messages
    )
    with pytest.raises(MmlopError, match=r"has no adapter\.json"):
        catalogue.find("mmlop-toy/2")
    shutil.rmtree(tmp_path / "own")  # and now the last copy of the champion
    with pytest.raises(MmlopError, match=r"has no adapter\.json"):
        catalogue.find("mmlop-toy")


def test_files_that_were_fetched_and_deleted_are_fetched_again(
    registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMLOP_CACHE", str(tmp_path / "own"))
    catalogue = Catalogue(refresh=1000)
    first = catalogue.find("mmlop-toy")
    shutil.rmtree(tmp_path / "own")
    assert catalogue.find("mmlop-toy") == first
    assert identity(first.folder) == first.identity


def test_requests_do_not_wait_for_a_registry_that_hangs(registered: Path) -> None:
    catalogue = Catalogue(refresh=SHORT)
    catalogue.find("mmlop-toy")
    lock = sqlite3.connect(registered / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")  # MLflow waits for its database
    try:
        time.sleep(SHORT)
        times = []
        for _ in range(20):
            start = time.monotonic()
            assert catalogue.find("mmlop-toy").version == 1
            times.append(time.monotonic() - start)
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert max(times) < fresh.PATIENCE + 0.3  # the one that asked
    assert sorted(times)[-2] < 0.1
    promote(2)
    assert soon(lambda: catalogue.find("mmlop-toy").version == 2, 20)


@pytest.mark.slow  # 20 to 60 s: a server starts twice
def test_an_outage(
    project: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = MlflowServer(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.start()
    try:
        publish(project, backbone)
        catalogue = Catalogue(refresh=0.3)
        first = catalogue.find("mmlop-toy")
        server.kill()
        end = time.monotonic() + 3
        while time.monotonic() < end:  # several attempts
            start = time.monotonic()
            assert catalogue.find("mmlop-toy") == first
            assert time.monotonic() - start < fresh.PATIENCE + 0.3
            time.sleep(0.05)
        assert catalogue.names() == ["mmlop-toy@champion"]
        assert "mmlop-toy has @champion" in unknown(catalogue, "mmlop-toy@best")
        with pytest.raises(TrackingUnavailable, match="The registry does not answer now"):
            catalogue.find("mmlop-toy/2")
        with pytest.raises(TrackingUnavailable, match="The registry does not answer now"):
            Catalogue().names()
        assert len([one for one in caplog.messages if "The registry does not answer" in one]) == 2  # one of each catalogue
        server.start()
        promote(2)
        assert soon(lambda: catalogue.find("mmlop-toy").version == 2)
        assert [one for one in caplog.messages if "answers again" in one]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mmlop-x", "mmlop-x@champion"),
        ("models:/mmlop-x", "mmlop-x@champion"),
        ("models:/mmlop-x@previous", "mmlop-x@previous"),
        ("mmlop-x/3", "mmlop-x/3"),
        ("models:/mmlop-x/3", "mmlop-x/3"),
        ("mmlop-x@", "mmlop-x@"),
        ("", "@champion"),
    ],
)
def test_forms_of_a_name(name: str, shown: str) -> None:
    assert str(Reference.parse(name)) == shown


# Values that become old


def test_a_value_is_read_when_it_is_old_and_not_before() -> None:
    read = []
    value = Fresh(lambda: read.append(1) or len(read), 0.2)  # type: ignore[func-returns-value]
    assert [value.get() for _ in range(10)] == [1] * 10
    time.sleep(0.2)
    assert [value.get() for _ in range(10)] == [2] * 10


def test_many_threads_read_once_and_go_on_with_the_old_value() -> None:
    read, go = [], threading.Event()

    def slowly() -> int:
        read.append(1)
        if len(read) > 1:
            go.wait()
        else:
            time.sleep(0.1)
        return len(read)

    value = Fresh(slowly, 0.1)
    found: list[int] = []
    for _ in range(2):
        threads = [threading.Thread(target=lambda: found.append(value.get())) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.1)
    assert (found, len(read)) == ([1] * 40, 2)
    go.set()
    assert soon(lambda: value.get() == 2)


def test_a_reading_that_fails() -> None:
    """With nothing known it is everybody's error, for a while; else the old value stays, unless it is known to be gone."""
    answers: list[int | Exception] = [OSError("first"), 1, OSError("third"), UnknownAdapter("gone"), 2]
    places = iter(answers)

    def read() -> int:
        answer = next(places)
        if isinstance(answer, Exception):
            raise answer
        return answer

    value = Fresh(read, SHORT)
    for expected in ("first", 1, 1, "gone", 2):
        for _ in range(2):
            if isinstance(expected, str):
                with pytest.raises((OSError, UnknownAdapter), match=expected):
                    value.get()
            else:
                assert value.get() == expected
        time.sleep(SHORT)
