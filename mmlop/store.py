"""Where MLflow keeps runs and versions: found from anywhere in the project, initialised once, and its absence noticed in
seconds rather than minutes."""

from __future__ import annotations

import importlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from mmlop import config
from mmlop.errors import MmlopError

logger = logging.getLogger(__name__)

DATABASE_SERVERS = ("postgresql", "mysql", "mssql")
PATIENCE = 5.0  # seconds until a server that does not answer counts as down
PAUSES = (1.0, 5.0)  # seconds, before the second and the third attempt

P = ParamSpec("P")
T = TypeVar("T")


class TrackingUnavailable(MmlopError):
    """MLflow's store cannot be used now. Nothing is lost: results are on disk, and a sync logs them later."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or an SQLite database at the project root. MLflow's own default follows the current folder: from
    a sub-folder one would silently see an empty registry. Raises MmlopError outside a project."""
    if given := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return given
    if not (config.home() / "params.yaml").is_file() and not (config.home() / "mlflow.db").is_file():
        raise MmlopError(
            f"{config.home()} is in no mmlop project (no params.yaml here or above) and so has no registry: change into a "
            f"project or set MLFLOW_TRACKING_URI."
        )
    return f"sqlite:///{config.home() / 'mlflow.db'}"


def shown(text: str) -> str:
    """A URI, or a text with URIs in it, without their passwords: for messages.

    >>> shown("postgresql://ada:p@ss#1@127.0.0.1/mlflow")
    'postgresql://ada:***@127.0.0.1/mlflow'
    """
    return re.sub(r"(://[^\s:/@]*):\S*@", r"\1:***@", text)


def sqlite_file(uri: str) -> Path | None:
    """The database file of an SQLite URI; None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def artifacts_beside(uri: str) -> str | None:
    """Where artifacts of an SQLite store go: beside the database, wherever the current folder is. None: the server says."""
    file = sqlite_file(uri)
    return (file.parent / "mlartifacts").as_uri() if file else None


def mlflow() -> Any:
    """The mlflow module (1.5 to 3 s the first time), told to be quiet."""
    # MLflow reports usage to its makers unless told otherwise; what a user trains on is nobody else's business.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow would send a request again whose answer was lost, and the server make a second run or version. See `insisting`.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    module = importlib.import_module("mlflow")
    importlib.import_module("mlflow.pyfunc")
    return module


def connect() -> Any:
    """An MlflowClient of the configured store, which is initialised on first use; MLflow's module-level functions are
    pointed at the same store.

    Raises TrackingUnavailable if the store does not answer.
    """
    uri = tracking_uri()
    with answering():
        _probe(uri)
        module = mlflow()
        _initialise(uri)
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
        unset = [name for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI") if name not in os.environ]
        module.set_tracking_uri(uri)
        module.set_registry_uri(registry)
        for name in unset:  # MLflow exports both, which would pin this process to one project
            os.environ.pop(name, None)
        client = module.MlflowClient(tracking_uri=uri, registry_uri=registry)
        client.search_experiments(max_results=1)  # a wrong schema or a forbidden user shows here
    return client


@contextmanager
def answering() -> Iterator[None]:
    """Turns what MLflow, its database or its server raise into TrackingUnavailable; MmlopErrors pass."""
    try:
        yield
    except MmlopError:
        raise
    except Exception as error:
        # By module, since importing MLflow or SQLAlchemy to name their classes takes seconds.
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("mlflow", "sqlalchemy", "requests"):
            raise unavailable(error) from error
        raise


def insisting(call: Callable[P, T]) -> Callable[P, T]:
    """Try a call again, twice, where MLflow could not be used. For calls that, done again, do what is left to do: a single
    request to MLflow is none."""

    @wraps(call)
    def tried(*arguments: P.args, **named: P.kwargs) -> T:
        for pause in PAUSES:
            try:
                return call(*arguments, **named)
            except TrackingUnavailable as error:
                logger.info("%s Trying again in %.0f seconds.", error, pause)
                time.sleep(pause)
        return call(*arguments, **named)

    return tried


def unavailable(cause: BaseException | str) -> TrackingUnavailable:
    lines = shown(str(cause)).strip().splitlines()
    why = (lines[0].strip() if lines else type(cause).__name__).rstrip(".")
    return TrackingUnavailable(
        f"MLflow at {shown(tracking_uri())} cannot be used ({why[:300]}): results stay on disk in runs/, and "
        f"`mmlop registry sync` logs them once it can."
    )


def _probe(uri: str) -> None:
    """Raise TrackingUnavailable within seconds if nobody answers; MLflow itself would retry for minutes."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        requests = importlib.import_module("requests")  # honours proxies, which a bare socket would not
        try:
            status = requests.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE).status_code
        except requests.exceptions.SSLError:
            return  # somebody answers; MLflow's own settings decide whom to trust
        except requests.exceptions.Timeout:
            raise unavailable(f"no answer within {PATIENCE:.0f} seconds") from None
        except requests.exceptions.ConnectionError:
            raise unavailable("no connection") from None
        if status in (502, 503, 504):
            raise unavailable(f"its gateway answers {status}")
    elif scheme.partition("+")[0] in DATABASE_SERVERS:
        # MLflow would put adapters into ./mlruns of whoever logs them, where no other machine finds them.
        raise unavailable("adapters have no place in a database: start `mlflow server` on it and give that one's address")


def _initialise(uri: str) -> None:
    """Create a missing SQLite database, once even if many processes start together.

    Several first connections at once would each migrate it and leave a database that never works again, and so would one
    killed half way: so it is made beside its place, under a lock, and renamed.
    """
    file = sqlite_file(uri)
    if file is None or _is_made(file):
        return
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if _is_made(file):
            return
        new = file.with_name(f"{file.name}.new")
        new.unlink(missing_ok=True)
        stores = importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
        stores.SqlAlchemyStore(f"sqlite:///{new}", artifacts_beside(uri)).engine.dispose()
        os.replace(new, file)


def _is_made(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
