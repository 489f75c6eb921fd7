"""Stage `fetch`: a data set's pictures and manifest into data/<dataset>/."""

from mmlop import config
from mmlop.data import datasets
from pipelines import stage


def main(dataset: str) -> None:
    params = config.load()
    drawing = datasets.Drawing(params.data.seed, params.data.per_class.model_dump())
    manifest = datasets.fetch(datasets.get(dataset, params.sources), config.root() / "data" / dataset, drawing)
    print(f"{dataset}: {len(manifest.pictures)} pictures of {len(manifest.classes)} classes in data/{dataset}")


if __name__ == "__main__":
    stage.run("fetch", main)
