"""Stage `transfer`: the adapters of a source tested on another data set, into results/transfer/<source>/<target>.jsonl."""

from __future__ import annotations

import logging

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from mmlop import config, configured, protocols
from mmlop import transfer as transfers
from mmlop.data import datasets
from mmlop.data.manifest import Manifest
from pipelines import stage
from pipelines.train import running

logger = logging.getLogger(__name__)


@task(task_run_name="{source}-{target}", cache_policy=NO_CACHE, persist_result=False)
def measure(source: str, target: str) -> str:
    """The mean over seeds, beside zero-shot, in one sentence."""
    root, params = config.root(), config.load()
    if params.threads:
        torch.set_num_threads(params.threads)
    protocol = protocols.of_pair(source, target, datasets.get(target, params).variant_of)
    adapters = transfers.load(root / "transfer" / source)
    backbone = configured.load_backbone(params)
    about = Manifest.load(root / "data" / source / "manifest.json")
    found = transfers.write(root, about, protocol, adapters, backbone, datasets.fetched(target, params))
    return f"{source} -> {target} ({protocol}): accuracy {found['zero_shot']:.1f} -> {found['accuracy']:.1f}"


@task(cache_policy=NO_CACHE, persist_result=False)
def publish(source: str, target: str) -> str:
    """Log the results to MLflow."""
    from mmlop import registry, tracking

    file = config.root() / "results" / "transfer" / source / f"{target}.jsonl"
    try:
        return registry.publish_transfer(file, tracking.lineage()).sentence
    except tracking.TrackingUnavailable as error:
        return f"{source} -> {target}: warning: {error}"


@flow(name="transfer", flow_run_name="transfer-{source}-{target}", validate_parameters=False)
def transfer(source: str, target: str) -> None:
    """Test every seed's adapter of a source on a target."""
    logger.info(measure(source, target))
    logger.info(publish(source, target))


def main(source: str, target: str) -> None:
    running(transfer, source, target)


if __name__ == "__main__":
    stage.run("transfer", main)
