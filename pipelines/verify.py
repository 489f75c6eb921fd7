"""A registered adapter is trained again, to see whether it is the same: `python -m pipelines.verify NAME@ALIAS`.

That happens where nothing else is touched (pipelines/worktree.py), with the code of the commit that the adapter was trained
at. The exit code is 0 for the same bits, 1 for others, and 2 where the training cannot be done again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmlop import restoring, verification
from mmlop.errors import MmlopError
from mmlop.resolving import resolve
from mmlop.store import answering, connect
from mmlop.verification import Verdict
from mmlop.versions import Version, named
from pipelines.worktree import Worktree, checked_out

RESOLVED = "import json; from mmlop import config; print(json.dumps(config.load().resolved()))"


def verify(uri: str) -> Verdict:
    """Train the adapter registered as ``uri`` (NAME@ALIAS or NAME/VERSION, perhaps after models:/) again and compare.

    Whatever keeps it from being trained is a verdict too. What goes on is said on standard error.
    """
    commit = None
    try:
        version = registered(uri)
        name = f"{version.name} version {version.version}"
        before = resolve(f"models:/{version.name}/{version.version}")
        info = json.loads((before / "adapter.json").read_bytes())
        commit, dirty = trained_at(version)
        print(f"Training {name} again at commit {commit[:10]}, where it changes nothing here.", file=sys.stderr, flush=True)
        with checked_out(commit, info["origin"]["mode"].get("threads")) as tree:
            params = prepare(tree, info)
            tree.python("-m", "pipelines.train", info["origin"]["dataset"])
            found = verification.compare(before, tree.folder / "runs" / info["origin"]["dataset"] / "adapter")
    except MmlopError as error:
        return verification.unverifiable(uri, str(error), commit)
    return verification.verdict(name, commit, dirty, params, found)


def registered(uri: str) -> Version:
    """Raises MmlopError, listing what exists, if there is no such version."""
    rest = uri.removeprefix("models:/").strip("/")
    client = connect()
    with answering():
        return named(client, rest if {"@", "/"} & {*rest} else f"{rest}@champion")


def trained_at(version: Version) -> tuple[str, bool]:
    """The commit of a training, and whether tracked files differed from it."""
    if not (commit := version.tags.get("mmlop.git_commit")):
        raise MmlopError("no commit is recorded with it, since it was trained outside a git repository")
    return commit, version.tags.get("mmlop.git_dirty") == "true"


def prepare(tree: Worktree, info: Mapping[str, Any]) -> dict[str, Any]:
    """Give a worktree the params, data and shots that an adapter has recorded; returns params that are not the commit's.

    Raises MmlopError for what is not to be had any more.
    """
    origin = info["origin"]
    dataset, recorded = origin["dataset"], origin["params"]
    values = _values(tree.folder) | {"device": origin["mode"]["device"]}
    values["sources"] = _sources(tree, dataset)
    _link_weights(tree, recorded["backbone"])
    if params := restoring.lacking(recorded, _resolved(tree, values)):
        values = restoring.restored(values, recorded)
        if left := restoring.lacking(recorded, _resolved(tree, values)):
            raise MmlopError(f"at commit {tree.commit[:10]}, what is recorded of {', '.join(left)} cannot be set")
    data, splits = f"data/{dataset}", f"splits/{dataset}.json"
    _bring(tree, data, f"{data}/manifest.json", origin["data_hash"], "fetch", dataset)
    _bring(tree, splits, splits, origin["split_hash"], "split", dataset)
    # Of what is measured beside the adapter, it holds the base-to-novel protocol at most.
    _write(tree, values | {"protocols": {"base_to_novel": bool(info.get("report"))}})
    return params


def _values(project: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise MmlopError(f"{project / 'params.yaml'} cannot be read ({' '.join(str(error).split())})") from error


def _write(tree: Worktree, values: Mapping[str, Any]) -> None:
    (tree.folder / "params.yaml").write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")


def _resolved(tree: Worktree, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the commit's code makes of the values of a params.yaml."""
    _write(tree, values)
    return dict(json.loads(tree.python("-c", RESOLVED)))


def _sources(tree: Worktree, dataset: str) -> dict[str, Any]:
    """Of the commit, or for the data set of today: pictures of one's own are where they are, wherever the worktree is."""
    sources = {**(_values(tree.folder).get("sources") or {})}
    if source := sources.get(dataset) or (_values(tree.root).get("sources") or {}).get(dataset):
        places = {key: str(tree.root / os.path.expanduser(source[key])) for key in ("folder", "table") if source.get(key)}
        sources[dataset] = source | places
    return sources


def _link_weights(tree: Worktree, backbone: Mapping[str, Any]) -> None:
    """To checkpoints that a profile names by a path from the project on, and that git does not keep."""
    for name in filter(None, (backbone["architecture"], backbone["weights"])):
        there, here = tree.root / name, tree.folder / name
        if there.exists() and not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(there)


def _bring(tree: Worktree, path: str, file: str, wanted: str, stage: str, dataset: str) -> None:
    """Give a worktree ``path``, whose ``file`` has the hash ``wanted``: the project's, or what the commit's stage makes.

    Raises MmlopError if neither has that hash.
    """
    if _hash(tree.root / file) == wanted:
        (tree.folder / path).parent.mkdir(exist_ok=True)
        (tree.folder / path).symlink_to(tree.root / path)
        return
    tree.python("-m", f"pipelines.{stage}", dataset)
    if (found := _hash(tree.folder / file)) != wanted:
        raise MmlopError(
            f"{path} is not what it was trained on (hash {found[:10]} instead of {wanted[:10]}): bring back what was there "
            f"then, with a dvc.lock of that time and `dvc checkout {path}` for instance, and ask again"
        )


def _hash(file: Path) -> str:
    """That a manifest or a split says it has; the stages that read it look whether that is so. Empty without one."""
    try:
        return str(json.loads(file.read_bytes())["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Error: usage: python -m pipelines.verify NAME@ALIAS", file=sys.stderr)
        return 2
    found = verify(arguments[0])
    print(found.sentence)
    return found.exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
