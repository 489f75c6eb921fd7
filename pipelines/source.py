"""Stage `source`: adapters of every seed on all classes of a data set, to be tested on others, into transfer/<dataset>/."""

from __future__ import annotations

import logging
import shutil

from prefect import flow

from mmlop import config, protocols, transfer
from pipelines import stage
from pipelines.train import load_bench, running, train_seeds

logger = logging.getLogger(__name__)


@flow(name="source", flow_run_name="source-{dataset}", validate_parameters=False)
def source(dataset: str) -> None:
    """Train the adapters that `transfer` tests."""
    root, params = config.root(), config.load()
    bench = load_bench(dataset, params)
    bench.checkpoints = root / ".mmlop" / "checkpoints" / f"{dataset}-source"
    seeds = train_seeds(bench, [protocols.transfer(params)])
    transfer.save(root / "transfer" / dataset, {seed: trained[-1] for seed, trained in seeds.items()})
    logger.info("%s: adapters of %d seeds in transfer/%s", dataset, len(seeds), dataset)
    shutil.rmtree(bench.checkpoints, ignore_errors=True)


def main(dataset: str) -> None:
    running(source, dataset)


if __name__ == "__main__":
    stage.run("source", main)
