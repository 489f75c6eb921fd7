"""The weights of an ONNX file in 8 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path


def quantise(file: Path, target: Path) -> None:
    """Write ``target``: the model in ``file`` with the weights of its matrix products as 8-bit integers, with a scale and a
    zero for each column, and activations quantised as they come (no pictures are needed for it).

    The convolution that cuts a picture into patches and the products inside attention stay in fp32: they have few weights
    or none. One scale for a whole matrix loses more, most of the time. Integers are unsigned, since with signed ones a
    processor without VNNI instructions adds up products in 16 bits, which overflow: scores would depend on the machine.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = file.with_name(f"{file.name}.data").exists()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        inferred = Path(folder) / file.name
        quant_pre_process(
            str(file), str(inferred), skip_optimization=True, skip_symbolic_shape=True,
            save_as_external_data=large, all_tensors_to_one_file=True, external_data_location=f"{file.name}.data",
        )  # fmt: skip
        quantize_dynamic(
            inferred, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QUInt8,
            per_channel=True, use_external_data_format=large,
        )  # fmt: skip
