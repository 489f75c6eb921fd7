"""What it costs `mmlop serve` that every request asks for another adapter: one adapter against many, in turns.

    python benchmarks/serving.py [--adapters 1000] [--seconds 3] [--rounds 5] [--device cpu] [--json]

Makes so many adapters of the mini backbone in a temporary folder (not measured; equal but for their factors, which are
drawn anew for each), serves the folder on a free port of 127.0.0.1, and has wrk post one picture over and over:

    one      always to the same adapter
    mixed    to all adapters in turn

Each for ``--seconds``, one right after the other in every round, and first the one, then the other, so that what else the
machine does hits both alike. With 64 connections the server is busy all the time; with a single one it is idle in between.
The ratio is the median of the rounds' ratios of requests per second; its goal, with 64 connections, is 0.9. No answer may
be other than 200. Before that, each adapter is asked once, one after the other, which loads it and computes its text
features; how long all of them take is told. Latencies are medians over the rounds.

The cold start is the time from starting the process until it listens, with one adapter and with all of them. Memory is
resident and of the server's process, when it listens and after all turns. The server's torch has a single thread
(OMP_NUM_THREADS=1), which leaves a core to wrk and to reading, decoding and answering requests; it needs two cores at
least. The exit status is 0 whether the goal is met or not, and 1 where an answer was other than 200.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

Figures = dict[str, Any]

CONNECTIONS = (64, 1)  # the server is always busy; it answers one request at a time
GOAL = 0.9  # requests per second with all adapters, as a share of those with one
LIMIT = 20  # seconds that wrk waits for an answer
TASK = "mini_letters"  # whose first classes the adapters have
CLASSES = 10

# wrk -s: posts a file to adapter-0, adapter-1, ... in turn. After "--" come the file, and how many adapters there are.
SCRIPT = """
local requests, last = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  local body = file:read("*a")
  for number = 0, arguments[2] - 1 do
    table.insert(requests, wrk.format("POST", "/predict?top=1&adapter=adapter-" .. number, nil, body))
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format('\\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "not_200": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status + lost))
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=1000, help="how many adapters (1000)")
    parser.add_argument("--seconds", type=int, default=3, help="of one turn (3)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind (5)")
    parser.add_argument("--device", default="cpu", help="where the server computes (cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args()
    if min(arguments.adapters, arguments.seconds, arguments.rounds) < 1:
        parser.error("--adapters, --seconds and --rounds are 1 at least")
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed, which sends the requests: install it (Debian's package wrk)")
    with tempfile.TemporaryDirectory(prefix="mmlop-benchmark-") as folder:
        figures = measured(Path(folder), arguments)
    if arguments.json:
        print(json.dumps(figures, indent=2, sort_keys=True))
    else:
        show(figures)
    lost = sum(turn["not_200"] for load in figures["loads"].values() for turn in (load["one"], load["mixed"]))
    if lost:
        sys.exit(f"{lost} answers were other than 200.")


def measured(folder: Path, arguments: argparse.Namespace) -> Figures:
    """All figures, of two servers one after the other."""
    make_adapters(folder / "adapters", arguments.adapters)
    (folder / "picture.png").write_bytes(picture())
    (folder / "wrk.lua").write_text(SCRIPT)
    with served(folder / "adapters" / "adapter-0", arguments.device) as lone:
        pass
    with served(folder / "adapters", arguments.device, "--adapters", str(arguments.adapters)) as server:
        before = server.memory
        first = ask_all(server, folder, arguments.adapters)
        loads = {}
        for connections in CONNECTIONS:
            rounds = [in_turns(server, folder, connections, arguments, number) for number in range(arguments.rounds)]
            loads[connections] = summary(rounds)
        after = server.memory
    return {
        "adapters": arguments.adapters,
        "cold_start_seconds": {"one": lone.ready, "all": server.ready},
        "first_answers_seconds": first,
        "memory_mb": {"before": before, "after": after},
        "loads": loads,
    }


def make_adapters(root: Path, count: int) -> None:
    """``adapter-0``, ``adapter-1``, ... with factors of their own."""
    import torch

    from mmlop import backbone as backbones
    from mmlop.adapter import Adapter, AdapterInfo, Origin, record
    from mmlop.data.mini.benchmark import TASKS
    from mmlop.prompts import PromptShape

    mini, task = backbones.load("mini"), TASKS[TASK]
    shape = PromptShape(3, 4, 1, mini.vision_width, mini.text_width)
    origin = Origin(dataset=task.name, data_hash="0" * 64, split_hash="0" * 64, shots=16, seed=0, params={}, mode={})
    info = AdapterInfo(
        method="mmlop",
        shape=shape,
        drift_correction=True,
        backbone=record(mini),
        classes=task.classes[:CLASSES],
        template=task.template,
        anchor_name="own",
        anchor_templates=(task.template,),
        origin=origin,
        metrics={},
    )
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        factors = {name: 0.1 * torch.randn(size, generator=generator) for name, size in shape.factors.items()}
        Adapter(factors, info).save(root / f"adapter-{number}")


def picture() -> bytes:
    """A PNG file of the mini world."""
    from PIL import Image

    from mmlop.data.mini import world

    buffer = io.BytesIO()
    Image.fromarray(world.draw(seed=0, index=0).pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Server:
    pid: int
    address: str
    ready: float  # seconds from its start until it listened

    @property
    def memory(self) -> int:
        """MB resident"""
        return round(psutil.Process(self.pid).memory_info().rss / 1e6)


@contextmanager
def served(adapters: Path, device: str, *options: str) -> Iterator[Server]:
    """`mmlop serve` in a process of its own, with one thread for torch; ended at the end."""
    command = [sys.executable, "-m", "mmlop.cli", "serve", str(adapters), "--port", "0", "--device", device, *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        if address is None:
            sys.exit("The server did not start; what it said is above.")
        yield Server(process.pid, address[0], round(time.perf_counter() - began, 1))
    finally:
        process.terminate()
        process.wait()


def ask_all(server: Server, folder: Path, adapters: int) -> float:
    """Seconds in which each adapter answers its first request, which loads it and computes its text features."""
    data, began = (folder / "picture.png").read_bytes(), time.perf_counter()
    with closing(HTTPConnection(server.address.removeprefix("http://"), timeout=LIMIT)) as connection:
        for number in range(adapters):
            connection.request("POST", f"/predict?adapter=adapter-{number}", data)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                sys.exit(f"adapter-{number} answered {answer.status}: {said.decode()}")
    return round(time.perf_counter() - began, 1)


def in_turns(server: Server, folder: Path, connections: int, arguments: argparse.Namespace, number: int) -> Figures:
    """A turn of both kinds; the other one first in every second round."""
    kinds = {"one": 1, "mixed": arguments.adapters}
    order = list(kinds)[:: -1 if number % 2 else 1]
    return {kind: wrk(server, folder, connections, arguments.seconds, kinds[kind]) for kind in order}


def wrk(server: Server, folder: Path, connections: int, seconds: int, adapters: int) -> Figures:
    """What wrk measured in a turn: see the end of SCRIPT."""
    wanted = {"--threads": 1, "--connections": connections, "--duration": f"{seconds}s", "--timeout": f"{LIMIT}s"}
    options = [str(word) for pair in wanted.items() for word in pair]
    given = [str(folder / "picture.png"), str(adapters)]
    done = subprocess.run(
        ["wrk", *options, "--script", str(folder / "wrk.lua"), server.address, "--", *given],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(rounds: list[Figures]) -> Figures:
    """Medians over the rounds; of answers other than 200 the sum."""
    found: Figures = {}
    for kind in ("one", "mixed"):
        turns = [one[kind] for one in rounds]
        found[kind] = {"requests_per_second": round(statistics.median(map(_rate, turns)), 1)}
        found[kind] |= {name: round(statistics.median(turn[name] for turn in turns), 1) for name in ("p50_ms", "p99_ms")}
        found[kind]["not_200"] = sum(turn["not_200"] for turn in turns)
        found[kind]["requests"] = sum(turn["requests"] for turn in turns)
    ratios = [_rate(one["mixed"]) / _rate(one["one"]) for one in rounds]
    return found | {"ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios]}


def _rate(turn: Figures) -> float:
    return float(turn["requests"] / turn["seconds"])


def show(figures: Figures) -> None:
    names = {"one": "1 adapter", "mixed": f"{figures['adapters']} adapters"}
    print("connections             requests/s   p50 ms   p99 ms  not 200")
    for connections, load in figures["loads"].items():
        for kind, name in names.items():
            turn = load[kind]
            numbers = f"{turn['requests_per_second']:10.1f} {turn['p50_ms']:8.1f} {turn['p99_ms']:8.1f} {turn['not_200']:8}"
            print(f"{connections:11}  {name:14} {numbers}")
    for connections, load in figures["loads"].items():
        rounds = ", ".join(f"{ratio:.2f}" for ratio in load["ratios"])
        print(f"ratio with {connections:2} connections: {load['ratio']:.3f} (rounds: {rounds})")
    verdict = "reached" if figures["loads"][CONNECTIONS[0]]["ratio"] >= GOAL else "MISSED"
    print(f"the goal of {GOAL} with {CONNECTIONS[0]} connections is {verdict}")
    start, memory = figures["cold_start_seconds"], figures["memory_mb"]
    print(f"cold start: {start['one']} s with 1 adapter, {start['all']} s with {figures['adapters']}")
    print(f"first answers of {figures['adapters']} adapters: {figures['first_answers_seconds']} s")
    print(f"memory of the server: {memory['before']} MB before, {memory['after']} MB after")


if __name__ == "__main__":
    main()
