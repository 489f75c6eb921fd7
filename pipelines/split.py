"""Stage `split`: the few-shot draws of every seed into splits/<dataset>.json."""

from mmlop import config, protocols
from mmlop.data import splits
from mmlop.data.manifest import Manifest
from pipelines import stage


def main(dataset: str) -> None:
    root, params = config.root(), config.load()
    manifest = Manifest.load(root / "data" / dataset / "manifest.json")
    split = splits.make(manifest, protocols.shots_needed(params), params.fewshot.seeds)
    split.save(root / "splits" / f"{dataset}.json")
    shots = ", ".join(map(str, split.draws))
    print(f"{dataset}: {len(split.base)} base and {len(split.novel)} novel classes, {shots} shots")


if __name__ == "__main__":
    stage.run("split", main)
