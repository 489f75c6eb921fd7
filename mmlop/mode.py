"""How and by what something is computed: what must be alike, beside the inputs, for the same bits."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from mmlop.backbone import Backbone


def of(backbone: Backbone, seeds_together: int = 1) -> dict[str, Any]:
    """Device, machine, threads, library versions, and how many seeds share a forward pass."""
    on_gpu = backbone.device.type == "cuda"
    gpu = (
        {
            "gpu": torch.cuda.get_device_name(backbone.device),
            "cuda": torch.version.cuda,
            "matmul": torch.get_float32_matmul_precision(),
        }
        if on_gpu
        else {}
    )
    return gpu | {
        "device": str(backbone.device),
        "machine": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "seeds_together": seeds_together,
        "libraries": {name: version(name) for name in ("torch", "torchvision", "open_clip_torch", "pillow")},
    }
