"""An adapter for the shipped CLIP, its data set, and streams of pictures for it; a plugin (``pytest_plugins``)."""

from __future__ import annotations

import pytest
import yaml
from streams import NAME, Watched

from mmlop import adapter as adapters
from mmlop import config, configured
from mmlop.adapter import Adapter, AdapterInfo, Origin
from mmlop.data import datasets
from mmlop.shapes import NoShape


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    root = tmp_path_factory.mktemp("watched")
    params = {
        "datasets": [NAME],
        "backbone": "mini",
        "data": {"per_class": {"train": 1, "val": 16, "test": 20}},
        "profiles": {"mini": {"architecture": "mini"}},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    loaded = config.load(root / "params.yaml")
    manifest = datasets.fetch(datasets.get(NAME, loaded), root / "data" / NAME)
    origin = Origin(
        dataset=NAME, data_hash=manifest.hash, split_hash="5" * 64, shots=1, seed=1, params={}, mode={"device": "cpu"}
    )
    info = AdapterInfo(
        method="zero_shot",
        shape=NoShape(),
        drift_correction=False,
        backbone=adapters.record(configured.load_backbone(loaded)),
        classes=manifest.classes,
        template=manifest.template,
        anchor_name="template",
        anchor_templates=(manifest.template,),
        origin=origin,
        metrics={},
    )
    Adapter({}, info).save(root / "adapter")
    return Watched(root, root / "adapter")
