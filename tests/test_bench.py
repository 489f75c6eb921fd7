"""The benchmark: a fair comparison (the same loss and gradients on both sides), and the command as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import open_clip
import pytest
import slow_clip
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from mmlop.backbone import Backbone
from mmlop.bench import Settings, line, reference, run, table
from mmlop.bench.measure import interleaved, started, warm_up
from mmlop.bench.settings import Work
from mmlop.bench.work import MATRIX, Training, ours, plain
from mmlop.cli_bench import bench
from mmlop.errors import MmlopError

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"layers": 2, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
app = Typer()
app.command()(bench)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    return str(folder)


# Fairness


@pytest.mark.parametrize(("part", "cached"), [("step", False), ("step", True), ("text", False)])
def test_both_sides_compute_the_same_loss_gradients_and_step(tiny: Backbone, part: str, cached: bool) -> None:
    names = open_clip.IMAGENET_CLASSNAMES[:30]
    our, their = (Training(tiny, encoders(tiny, names), len(names), 4, cached) for encoders in (ours, plain))
    for _ in range(2):  # the second starts from what the first learned
        assert torch.allclose(getattr(our, part)(), getattr(their, part)(), rtol=1e-5)
        for name, factor in their.factors.items():
            assert torch.allclose(our.factors[name], factor, atol=1e-5)
            if part == "text" and name == "V_vision":
                assert our.factors[name].grad is factor.grad is None
            else:
                difference, norm = (our.factors[name].grad - factor.grad).norm(), factor.grad.norm()
                assert norm > 0
                assert difference <= 1e-3 * norm


def test_the_plain_side_is_open_clips_own_without_prompts(tiny: Backbone) -> None:
    images, tokens = torch.randn(2, 3, 32, 32), tiny.tokenizer(["cat", "a long-haired dog"])
    none = torch.empty(2, 0, 32)
    assert torch.equal(reference.encode_text(tiny, tokens, none), tiny.model.encode_text(tokens))
    found = reference.encode_image(tiny, images, none.expand(2, -1, -1, -1))
    assert torch.equal(found, tiny.model.encode_image(images))


def test_the_plain_side_with_prompts_is_the_slow_reference(tiny: Backbone) -> None:
    images, prompts = torch.randn(2, 3, 32, 32), torch.randn(2, 2, 3, 32)
    assert torch.equal(reference.encode_image(tiny, images, prompts), slow_clip.encode_image(tiny, images, prompts))
    tokens = reference.with_placeholders(tiny.tokenize(["cat.", "a long-haired dog."], 3), 3, tiny.context_length)
    found = reference.encode_text(tiny, tokens, prompts[0])
    assert torch.equal(found, slow_clip.encode_text(tiny, tokens, prompts[0]))


# Measuring


def test_processes_are_measured_in_turns(architecture: str) -> None:
    works = [Work("step", side, "fp32", 12, 2, architecture=architecture) for side in ("ours", "reference")]
    our, their = interleaved(works, runs=2)
    assert len(our.runs) == len(their.runs) == 2
    assert min(our.runs + their.runs) > 0
    assert 0 < our.flops < their.flops  # the reference computes all rows
    assert 50e6 < our.peak < 5e9


def test_flops_are_those_of_the_arithmetic() -> None:
    (found,) = interleaved([Work("matmul", "ours")], runs=1)
    assert found.flops == 2 * MATRIX**3


@pytest.mark.parametrize(("device", "runs"), [("cpu", 2), ("cuda", 3), ("cuda:1", 3)])
def test_nothing_is_timed_before_it_does_what_it_will_always_do(device: str, runs: int) -> None:
    """On CUDA the second run records, the third replays; the operations counted are those of one run."""
    done: list[torch.Tensor] = []
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert warm_up(lambda: done.append(left @ right), device) == 2 * 3 * 5 * 7
    assert len(done) == runs


def test_running_out_of_memory_is_one_sentence(architecture: str) -> None:
    with pytest.raises(MmlopError, match="choose fewer --classes or a smaller --batch"):
        interleaved([Work("step", "ours", classes=5, batch=10**10, architecture=architecture)], runs=1)


def test_a_process_ended_by_the_system_is_one_sentence() -> None:
    with started(Work("matmul", "ours")) as worker:
        worker.process.kill()
        with pytest.raises(MmlopError, match="code -9, most likely for want of memory"):
            worker.ask("run")


@given(st.integers(2, 100), st.integers(101, 900), st.floats(0, 1e3), st.floats(1e-3, 1e3))
def test_the_extension_is_the_line_through_both_measurements(few: int, many: int, base: float, slope: float) -> None:
    found = line(few, base + slope * few, many, base + slope * many, 1000)
    assert found == pytest.approx(base + slope * 1000)


# The command


def test_the_command_measures_extends_and_draws(architecture: str, tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    options = ["--architecture", architecture, "--classes", "60", "--batch", "2", "--runs", "1", "--precision", "fp32"]
    options += ["--memory", "0.01", "--parts", "step,decoding", "--plot", str(plot), "--json"]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    report = json.loads(done.stdout)
    step, cached, decoding = report["rows"]
    assert [(row["classes"], row["precision"], row["cached_views"]) for row in (step, cached)] == [
        (60, "fp32", False),
        (60, "fp32", True),
    ]
    # Nothing fits 10 MB: the reference is measured at no more than the 40 classes that tell so, and extended.
    assert step["extrapolated"]
    assert step["reference_classes"] == [10, 40]
    assert step["speedup"] == pytest.approx(step["reference_seconds"] / step["seconds"])
    assert step["memory_ratio"] == pytest.approx(step["reference_peak"] / step["peak"], rel=1e-6)
    assert step["matmul_share"] == pytest.approx(step["gflops"] / step["matmul_gflops"])
    assert decoding["speedup"] == pytest.approx(decoding["reference_seconds"] / decoding["seconds"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "measuring: step, 60 classes" in done.stderr

    console = Console(width=80, file=StringIO(), record=True)
    for found in table.tables(report):
        console.print(found)
    text = console.export_text()
    assert f"~{step['speedup']:.2f}x" in text
    assert "the plain step at 10 and 40 classes" in text
    assert f"{decoding['speedup']:.2f}x" in text
    assert "fp32" in table.heading(report)


def test_on_cuda_the_report_says_that_ours_is_recorded(architecture: str) -> None:
    works = [
        Work(kind, side, device=device)
        for kind in ("step", "text", "encode", "matmul")
        for side in ("ours", "reference")
        for device in ("cpu", "cuda:0")
    ]
    recorded = [(work.kind, work.side, work.device) for work in works if work.recorded]
    assert recorded == [("step", "ours", "cuda:0"), ("text", "ours", "cuda:0")]

    settings = Settings(classes=(12,), precisions=("fp32",), parts=("text",), batch=2, runs=1, architecture=architecture)
    report = run(settings)

    def printed() -> str:
        console = Console(width=100, file=StringIO(), record=True)
        console.print(*table.tables(report))
        return console.export_text()

    (row,) = report["rows"]
    assert row["recorded"] is False  # on a CPU
    assert "CUDA graph" not in printed()
    row["recorded"] = True
    assert "ours runs as a recorded CUDA graph" in printed()


def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for plot, message in (
        (tmp_path / "file" / "bench.png", "plot cannot be written to .*bench.png .*: give --plot a file in another folder"),
        (tmp_path / ("x" * 250 + ".png"), "plot cannot be written to .*x.png .*name too long"),
        (tmp_path, "is a folder: name a file, e.g. .*bench.png"),
    ):
        done = CliRunner().invoke(app, ["--quick", "--plot", str(plot)])
        assert isinstance(done.exception, MmlopError)
        assert re.search(message, str(done.exception))
        assert "measuring" not in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_whatever_becomes_of_the_plot_the_figures_are_printed(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    options = ["--architecture", architecture, "--classes", "12", "--batch", "2", "--runs", "1", "--precision", "fp32"]
    options += ["--parts", "step", "--plot", str(folder / "bench.png"), "--json"]
    command = [sys.executable, "-m", "mmlop.cli", "bench", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline() == "measuring: step, 12 classes\n"
        folder.rmdir()  # which the command made and found writable
        folder.write_text("in the way")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert {row["classes"] for row in json.loads(out)["rows"]} == {12}
    assert re.fullmatch(r"Error: The plot cannot be written to \S+bench.png \(.+\): give --plot .+\n", err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "many"], "whole numbers"),
        (["--classes", "1001"], "holds 1001"),
        (["--precision", "fp23"], "'fp23' is unknown: choose among fp32"),
        (["--parts", "setp"], "no part 'setp': choose among step"),
        (["--runs", "0"], "--runs is 0"),
        (["--parts", "text", "--plot", "bench.png"], "draws the part 'step'"),
        (["--device", "mps"], "cannot time device 'mps': choose --device cpu, cuda or"),
        (["--device", "cuda:77"], "'cuda:77' cannot be used"),
        (["--architecture", "ViT-Z"], "'ViT-Z' is neither"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], message: str) -> None:
    with pytest.raises(MmlopError, match=message):
        CliRunner().invoke(app, options, catch_exceptions=False)


def test_quick_is_small() -> None:
    quick = Settings().quick()
    assert (quick.classes, quick.precisions, quick.runs) == ((20,), ("fp32",), 2)
    assert Settings(precisions=("bf16", "fp32")).quick().precisions == ("bf16",)


def test_few_runs_where_a_step_takes_long() -> None:
    assert [Settings().runs_at(count) for count in (50, 499, 500, 1000)] == [5, 5, 3, 3]
    assert Settings(runs=1).runs_at(1000) == 1
