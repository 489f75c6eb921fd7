"""The machine that is measured on: what it is, what memory is free, and how fast it multiplies matrices."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Any

from mmlop.bench.measure import context
from mmlop.errors import MmlopError


def describe(device: str, architecture: str) -> dict[str, Any]:
    """Facts about ``device``, found by a process of its own. Raises MmlopError if it or the architecture cannot be used."""
    with ProcessPoolExecutor(1, context()) as pool:
        return pool.submit(_describe, device, architecture).result()


def _describe(device: str, architecture: str) -> dict[str, Any]:
    import platform

    import psutil  # type: ignore[import-untyped]
    import torch

    from mmlop.bench.work import model_name

    model_name(architecture)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MmlopError(f"Device '{device}' cannot be used on this machine ({reason}): choose --device cpu.") from error
    found = {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.startswith("cuda"):
        return found | {
            "name": torch.cuda.get_device_name(device),
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
            "tf32": torch.backends.cuda.matmul.allow_tf32,  # of matrix products; never of convolutions
            "free": torch.cuda.mem_get_info(device)[0],
        }
    return found | {
        "name": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "bf16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
        "free": int(psutil.virtual_memory().available),
    }
