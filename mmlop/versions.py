"""Registered models: which adapters are registered under which names, versions and aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mmlop.errors import MmlopError, listing
from mmlop.store import mlflow

CHAMPION, PREVIOUS = "champion", "previous"
# Tags of a version that was decided on.
OUTCOME = "mmlop.decision"
REASON = "mmlop.reason"  # one sentence
FORCED = "mmlop.forced"  # why a person decided so
COMPARED_WITH = "mmlop.compared_with"  # the champion it met
MEASURED = ("mmlop.p_value", "mmlop.pictures", "mmlop.champion_accuracy", "mmlop.challenger_accuracy")
DECISION_TAGS = (OUTCOME, REASON, FORCED, COMPARED_WITH, *MEASURED)


@dataclass(frozen=True)
class Version:
    """A registered adapter."""

    name: str
    version: int
    aliases: tuple[str, ...]
    metrics: dict[str, float]  # of the adapter itself, percent
    identity: str  # of the adapter's files; empty for one that was registered by other means
    created: str  # ISO 8601, UTC
    run_id: str
    size: int  # bytes of the factors
    tags: dict[str, str]  # lineage, and the decision of the champion rule

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def model_name(dataset: str) -> str:
    return f"mmlop-{dataset}"


def ensure(client: Any, dataset: str) -> Any:
    """The registered model of a data set, made if there is none yet."""
    name = model_name(dataset)
    try:
        client.create_registered_model(name, description=f"Adapters of {dataset}; `champion` is the one in use.")
    except mlflow().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_registered_model(name)


def names(client: Any) -> list[str]:
    return sorted(model.name for model in _pages(client.search_registered_models, "name LIKE 'mmlop-%'"))


def _pages(search: Any, condition: str) -> list[Any]:
    found, token = [], None
    while True:
        page = search(filter_string=condition, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def aliases_of(client: Any, name: str) -> dict[str, int]:
    """Aliases of a registered model (a search does not return them). Raises MmlopError if there is no such model."""
    try:
        model = client.get_registered_model(name)
    except mlflow().exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        there = listing(names(client), name) or "none yet"
        raise MmlopError(f"There is no registered adapter '{name}'; registered: {there}.") from None
    return {alias: int(version) for alias, version in model.aliases.items()}


def versions_of(client: Any, name: str) -> list[Version]:
    aliases = aliases_of(client, name)
    found = _pages(client.search_model_versions, f"name = '{name}'")
    return sorted((_described(one, aliases) for one in found), key=lambda version: version.version)


def version_of(client: Any, name: str, wanted: str) -> Version:
    found = versions_of(client, name)
    if wanted == "latest" and found:
        return found[-1]
    for version in found:
        if str(version.version) == wanted:
            return version
    there = ", ".join(str(version.version) for version in found) or "none"
    raise MmlopError(f"{name} has no version '{wanted}'; its versions: {there}.")


def named(client: Any, rest: str) -> Version:
    """The version that ``NAME@ALIAS`` or ``NAME/VERSION`` stands for. Raises MmlopError, listing what exists, if there is
    no such model, alias or version."""
    name, at, alias = rest.partition("@")
    if not at:
        name, slash, number = rest.partition("/")
        if slash:
            return version_of(client, name, number)
        aliases_of(client, name)  # the name is wrong more often than the form
        raise MmlopError(f"models:/{name} names no version: add @champion, or one of /{numbers_of(client, name)}.")
    aliases = aliases_of(client, name)
    if alias not in aliases:
        there = listing(aliases, alias) or "none yet"
        raise MmlopError(f"{name} has no alias '{alias}'; its aliases: {there}; its versions: {numbers_of(client, name)}.")
    return version_of(client, name, str(aliases[alias]))


def decided(client: Any, version: Version, tags: Mapping[str, str]) -> None:
    """Write down a decision in place of an earlier one, its outcome last: a version with an outcome has the whole decision.
    Done again, it changes nothing."""
    before = {key: value for key, value in version.tags.items() if key in DECISION_TAGS}
    if before == tags:
        return
    for key in before:
        if key == OUTCOME or key not in tags:
            client.delete_model_version_tag(version.name, version.version, key)
    for key in sorted(tags, key=lambda key: key == OUTCOME):
        client.set_model_version_tag(version.name, version.version, key, tags[key])


def numbers_of(client: Any, name: str) -> str:
    return ", ".join(str(version.version) for version in versions_of(client, name))


def _described(one: Any, aliases: dict[str, int]) -> Version:
    tags, number = dict(one.tags), int(one.version)
    prefix = "mmlop.metric."
    return Version(
        name=one.name,
        version=number,
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
        metrics={key.removeprefix(prefix): float(value) for key, value in sorted(tags.items()) if key.startswith(prefix)},
        identity=tags.get("mmlop.adapter", ""),
        created=datetime.fromtimestamp(one.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        run_id=one.run_id or "",
        size=int(tags.get("mmlop.size", 0)),
        tags=tags,
    )
