"""Stages `fetch` and `fetch_test`: what is in a data set, and pictures that have no other place, into data/<dataset>/."""

from mmlop import config
from mmlop.data import datasets
from pipelines import stage


def main(dataset: str) -> None:
    manifest = datasets.fetch(datasets.get(dataset, config.load()), config.root() / "data" / dataset)
    print(f"{dataset}: {len(manifest.pictures)} pictures of {len(manifest.classes)} classes ({manifest.split} split)")


if __name__ == "__main__":
    stage.run("fetch", main)
