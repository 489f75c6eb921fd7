"""The same pipeline on ViT-B/16: one word in params.yaml, here with random weights from a checkpoint file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clone import Project

pytest_plugins = ["clone_fixtures"]


@pytest.mark.slow
def test_one_word_switches_to_vit_b_16(tmp_path: Path, prefect_server: str) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    checkpoint = tmp_path / "vit-b-16.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, checkpoint)
    project = Project(tmp_path / "project")
    project.edit(
        datasets=["mini_digits"],
        data__per_class={"train": 1, "val": 1, "test": 1},  # 5 base classes: one batch of 4, so one step an epoch
        fewshot__seeds=[1],
        train__epochs=2,
        **{"profiles__vit-b-16__weights": str(checkpoint)},
    )
    project.edit(backbone="vit-b-16")
    project.commit()
    said = project.run("dvc", "repro").stdout
    assert "fewer than 16 training pictures" in said
    run = json.loads((project.folder / "runs/mini_digits/run.json").read_text())
    assert run["trainable"] == 11_556
    assert run["backbone"]["name"] == "ViT-B-16-quickgelu"
    assert [len(trained["history"]) for trained in run["seeds"]["1"]] == [2, 2]
    assert (project.folder / "runs/mini_digits/adapter/adapter.safetensors").stat().st_size <= 60 * 1024
    picture = next((project.folder / "data/mini_digits/test").rglob("*.png"))
    answer = project.mmlop("predict", "models:/mmlop-mini_digits@champion", str(picture), "--json")
    assert json.loads(answer.stdout)["labels"][0]["label"].startswith("digit ")
