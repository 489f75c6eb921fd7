"""Is there drift? From the name of an adapter and the folder of a log to an answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mmlop import adapter as adapters
from mmlop import config, drift, prediction_log
from mmlop.classifier import Classifier
from mmlop.config import Params
from mmlop.data import datasets
from mmlop.data.manifest import Fetched
from mmlop.data.pictures import prepare_all
from mmlop.drift import Found, Sample
from mmlop.errors import MmlopError
from mmlop.resolving import resolve
from mmlop.schedules import interval
from mmlop.versions import model_name

CHOSEN = 4 * drift.MOST  # rows of a log that are looked at, among which some may be repeated


@dataclass(frozen=True)
class Check:
    """What was compared, and what came of it."""

    dataset: str
    uri: str
    identity: str  # of the adapter
    log: str
    since: str
    checked: str  # ISO 8601, UTC
    rows: int  # of the adapter in the log and that time
    others: int  # of those that were looked at, rows for which other classes were asked: not compared
    part: str  # of the data set that is the reference: val, or train where there is no such
    found: Found
    reference: Sample
    logged: Sample

    def as_dict(self) -> dict[str, Any]:
        """Without the pictures' features."""
        kept = {name: value for name, value in vars(self).items() if name not in ("found", "reference", "logged")}
        return kept | asdict(self.found)

    @property
    def sentence(self) -> str:
        return f"{self.dataset}: {self.found.reason}"


def check(name: str, params: Params, log: Path | None = None, since: str | None = None, device: str | None = None) -> Check:
    """Compare what was logged of an adapter with the validation pictures of its data set.

    ``name`` is a data set, whose champion is meant, a registered name or a URI. None: as `drift` and `device` in
    params.yaml say. Raises MmlopError where there is no such adapter, no log, or the data set is not fetched.
    """
    since, uri = since or params.drift.since, uri_of(name, params)
    span = interval(since)
    if span is None:
        raise MmlopError(f"since is '{since}', but it needs a number with s, m, h or d, for instance 7d.")
    where, folder = _log(params, log), resolve(uri)
    identity = adapters.identity(folder)
    logged = prediction_log.read(where, identity=identity, since=span, most=CHOSEN)
    classifier = Classifier.load(folder, device or params.device)
    dataset = classifier.adapter.info.origin.dataset
    part, reference = reference_of(classifier, datasets.fetched(dataset, params))
    labels = np.array(logged.labels, dtype=str)
    mine = Sample(logged.features, logged.confidence, labels, labels).take(np.flatnonzero(logged.own))
    return Check(
        dataset=dataset,
        uri=uri,
        identity=identity,
        log=str(where),
        since=since,
        checked=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=logged.total,
        others=int((~logged.own).sum()),
        part=part,
        found=drift.compare(reference, mine, params.drift, unseen=part != "train"),
        reference=reference,
        logged=mine,
    )


def uri_of(name: str, params: Params) -> str:
    """The URI of a data set's champion, of a registered name as services know it (`mmlop-x@champion`), or of itself."""
    if name in params.datasets:
        return f"models:/{model_name(name)}@champion"
    if name.startswith(model_name("")) and not Path(name).exists():
        return f"models:/{name}" if "@" in name or "/" in name else f"models:/{name}@champion"
    return name


def reference_of(classifier: Classifier, data: Fetched) -> tuple[str, Sample]:
    """The validation pictures of the adapter's classes as it sees them, or the training pictures where there are none; and
    which of them they are."""
    known, manifest = set(classifier.classes), data.manifest
    parts = {part: [one for one in manifest.of(part) if manifest.classes[one.label] in known] for part in ("val", "train")}
    part = "val" if parts["val"] else "train"
    chosen = [parts[part][place] for place in drift.spaced(len(parts[part]), drift.MOST)]
    features = classifier.features(prepare_all(data, chosen, classifier.backbone.preprocessing.size))
    confidence, best = classifier.probabilities_of(classifier.scored(features)).max(dim=1)
    labels = np.array(classifier.classes, dtype=str)[best.numpy()]
    truth = np.array([manifest.classes[one.label] for one in chosen], dtype=str)
    return part, Sample(features.float().cpu().numpy(), confidence.double().numpy(), labels, truth)


def _log(params: Params, given: Path | None) -> Path:
    if (log := given or params.drift.log) is None:
        raise MmlopError(
            "There is no prediction log to look into: give its folder with --log, or as drift.log in params.yaml; "
            "`mmlop serve --log FOLDER` writes one."
        )
    return log if given else config.home() / log
