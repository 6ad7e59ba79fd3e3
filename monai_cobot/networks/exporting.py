"""SAM's two halves for other runtimes: ONNX and TorchScript, each compared with PyTorch after it is written."""

from __future__ import annotations

import io
from contextlib import ExitStack
from importlib import import_module
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from monai_cobot.files import written_beside
from monai_cobot.networks.promptable import PromptableSam

__all__ = ["DecoderHalf", "EncoderHalf", "export_onnx", "export_torchscript"]

_MOST_BYTES = 1536 * 2**20
"""Protobuf holds 2 GiB, and above this torch's exporter moves weights to a second file, without being asked."""


class EncoderHalf(nn.Module):
    """image (1, 3, size, size) in [0, 1], in SAM's frame -> embedding (1, C, h, w)."""

    def __init__(self, network: PromptableSam) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return self.network.encode(image)


class DecoderHalf(nn.Module):
    """embedding (1, C, h, w), boxes (1, N, 4) in pixels of SAM's frame -> logits (1, N, size, size), IoU (1, N)."""

    def __init__(self, network: PromptableSam) -> None:
        super().__init__()
        self.network = network

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        size = self.network.sam.image_encoder.img_size
        return self.network.decode(embedding, boxes, (size, size))


@torch.no_grad()
def export_onnx(
    network: PromptableSam, folder: str | PathLike[str], largest_difference: float = 1e-3
) -> dict[str, float]:
    """Write ``encoder.onnx`` and ``decoder.onnx``, if what onnxruntime makes of both is what PyTorch computes.

    Args:
        network: in float32, on the CPU; adapters in it become part of the files.
        folder: where to.
        largest_difference: of an output, relative to the output's largest value.

    Returns:
        File name -> largest difference of an output, relative to the output's largest value.

    Raises:
        ValueError: onnx, onnxscript or onnxruntime are not installed; the encoder is too large for one ONNX file; or a
            file differs from PyTorch by more. What was there before is intact.
        OSError: a file cannot be written; what was there before is intact.
    """
    try:
        for package in ("onnx", "onnxscript"):  # torch's exporter asks for them when it has begun
            import_module(package)
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            'Export to ONNX needs onnx, onnxscript and onnxruntime: pip install "monai-cobot[export]".'
        ) from error
    size = sum(tensor.nbytes for tensor in network.sam.image_encoder.state_dict().values())
    if size > _MOST_BYTES:
        raise ValueError(
            f"The image encoder has {size / 1e9:.1f} GB of weights, and one ONNX file holds "
            f"{_MOST_BYTES / 1e9:.1f} GB: export it as TorchScript (--format torchscript), or a smaller SAM."
        )
    differences = {}
    with ExitStack() as both:
        for name, half, inputs, names, outputs in _halves(network):
            path = Path(folder) / f"{name}.onnx"
            boxes = torch.export.Dim("boxes", min=1, max=1024)
            beside = both.enter_context(written_beside(path))
            torch.onnx.export(
                half,
                inputs,
                str(beside),
                input_names=names,
                output_names=outputs,
                dynamo=True,
                external_data=False,
                dynamic_shapes=({}, {1: boxes}) if name == "decoder" else None,
                verbose=False,
            )
            session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
            fed = {key: value.numpy() for key, value in zip(names, inputs, strict=True)}
            differences[path.name] = _difference(half(*inputs), session.run(None, fed))
            del session  # Windows moves no file that is open
        _check_differences(differences, largest_difference)
    return differences


@torch.no_grad()
def export_torchscript(
    network: PromptableSam, folder: str | PathLike[str], largest_difference: float = 1e-3
) -> dict[str, float]:
    """Write ``encoder.ts`` and ``decoder.ts`` by tracing, if both compute what PyTorch does.

    Args:
        network: in float32, on the CPU; adapters in it become part of the files.
        folder: where to.
        largest_difference: as in :func:`export_onnx`.

    Returns:
        As :func:`export_onnx`.

    Raises:
        ValueError: a file differs from PyTorch by more; what was there before is intact.
        OSError: a file cannot be written; what was there before is intact.
    """
    differences = {}
    with ExitStack() as both:
        for name, half, inputs, _, _ in _halves(network):
            path = Path(folder) / f"{name}.ts"
            traced = torch.jit.trace(half, inputs, check_trace=False)
            buffer = io.BytesIO()
            torch.jit.save(traced, buffer)
            both.enter_context(written_beside(path)).write_bytes(buffer.getvalue())
            found = torch.jit.load(io.BytesIO(buffer.getvalue()))(*inputs)
            differences[path.name] = _difference(half(*inputs), _as_list(found))
        _check_differences(differences, largest_difference)
    return differences


def _halves(
    network: PromptableSam,
) -> list[tuple[str, nn.Module, tuple[Tensor, ...], list[str], list[str]]]:
    """Name, module, inputs to try it with, and the names of inputs and outputs."""
    size = network.sam.image_encoder.img_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0.1, 0.2, 0.7, 0.9], [0.4, 0.1, 0.9, 0.5]]]) * size
    return [
        ("encoder", EncoderHalf(network).eval(), (image,), ["image"], ["embedding"]),
        (
            "decoder",
            DecoderHalf(network).eval(),
            (network.encode(image), boxes),
            ["embedding", "boxes"],
            ["logits", "quality"],
        ),
    ]


def _as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[np.ndarray]:
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _difference(expected: Tensor | tuple[Tensor, ...], found: list[np.ndarray]) -> float:
    pairs = zip(_as_list(expected), found, strict=True)
    return max(float(np.abs(one - other).max() / np.abs(one).max()) for one, other in pairs)


def _check_differences(differences: dict[str, float], largest: float) -> None:
    """Refuses files that compute something else, be it NaN."""
    wrong = [f"{name} by {difference:.1e}" for name, difference in differences.items() if not difference <= largest]
    if wrong:
        raise ValueError(
            f"What was exported differs from PyTorch by more than {largest} of the largest value, and was not kept: "
            f"{', '.join(wrong)}. Try the other format, or other versions of PyTorch and onnxruntime."
        )
