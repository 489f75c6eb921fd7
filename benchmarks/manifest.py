"""How long a big folder of one's own takes to become a manifest and splits, and how much memory that needs.

    python benchmarks/manifest.py [--pictures 100000] [--json]

Makes a project with so many small JPEG pictures in 100 classes in a temporary folder (not measured; a few hundred bytes
to some kilobytes each, no two the same), then, in a new process for each step:

    fetch   the folder -> manifest.json: every picture is read, hashed and decoded
    split   manifest.json -> splits for 16 shots and three seeds

Wall time is that of the whole process, starting Python and its imports included; memory is the process's peak resident
size. The pictures have just been written, so the disk is not waited for. The goals, for 100 000 pictures, are 60 seconds
and 1 GB for each step. The exit status is 0 whether they are met or not.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 100
DISTINCT = 200  # pictures that are encoded; the others are copies of them with another comment
SECONDS, MEGABYTES = 60, 1000
NAME = "pictures"

PARAMS = """
datasets: [pictures]
backbone: mini
sources: {pictures: {folder: pictures}}
profiles: {mini: {architecture: mini, depth: 3}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000, help="how many pictures (100 000)")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--step", choices=sorted(STEPS), help=argparse.SUPPRESS)  # what a process of its own does
    arguments = parser.parse_args()
    if arguments.step:
        STEPS[arguments.step]()
        print(json.dumps({"megabytes": round(_peak() / 1e6)}))
        return
    if arguments.pictures < CLASSES * 10:
        parser.error(f"--pictures is {arguments.pictures}: {CLASSES} classes need {CLASSES * 10} at least")
    with tempfile.TemporaryDirectory(prefix="mmlop-benchmark-") as project:
        make_project(Path(project), arguments.pictures)
        figures = {step: measured(step, Path(project)) for step in STEPS}
    if arguments.json:
        print(json.dumps({"pictures": arguments.pictures, "steps": figures}, indent=2, sort_keys=True))
        return
    print(f"{arguments.pictures} pictures in {CLASSES} classes; the goals are for 100000 pictures")
    for step, figure in figures.items():
        for unit, goal in (("seconds", SECONDS), ("megabytes", MEGABYTES)):
            verdict = "within" if figure[unit] <= goal else "BEYOND"
            print(f"{step:6} {figure[unit]:8} {unit:10} {verdict} the goal of {goal}")


def make_project(project: Path, pictures: int) -> None:
    """params.yaml, and ``pictures/<class>/<number>.jpg``."""
    (project / "params.yaml").write_text(PARAMS)
    encoded = _encoded()
    for label in range(CLASSES):
        folder = project / "pictures" / f"class {label:03d}"
        folder.mkdir(parents=True)
        for number in range(label, pictures, CLASSES):
            start, rest = encoded[number % DISTINCT][:2], encoded[number % DISTINCT][2:]
            comment = f"{number:012d}".encode()
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (folder / f"{number:06d}.jpg").write_bytes(start + segment + rest)


def _encoded() -> list[bytes]:
    """JPEG files of 160 x 120 pixels: noise of few pixels, enlarged."""
    import numpy as np
    from PIL import Image

    files = []
    for seed in range(DISTINCT):
        noise = np.random.default_rng(seed).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(buffer, format="JPEG")
        files.append(buffer.getvalue())
    return files


def measured(step: str, project: Path) -> dict[str, float]:
    """Seconds and megabytes of a step in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--step", step],
        cwd=project,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 1), **json.loads(done.stdout.splitlines()[-1])}


def fetch() -> None:
    from mmlop import config
    from mmlop.data import datasets

    datasets.fetch(datasets.get(NAME, config.load()), Path("data") / NAME)


def split() -> None:
    from mmlop import config
    from mmlop.data import datasets, splits

    params = config.load()
    manifest = datasets.fetched(NAME, params).manifest
    splits.make(manifest, [params.fewshot.shots], params.fewshot.seeds).save(Path("splits") / f"{NAME}.json")


STEPS = {"fetch": fetch, "split": split}


def _peak() -> int:
    """Bytes that this process has held in memory at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
