"""Which backend runs the image encoder, and why."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from monai_cobot.networks.promptable import PromptableSam

BACKENDS = ("auto", "eager", "compile", "openvino")

WORTH_CONVERTING = 1e10
"""Multiplications an image from which ``auto`` converts an encoder. A smaller one, such as ``vit_mini``, encodes
hundreds of images in the seconds that its conversion takes."""


class BackendError(ValueError):
    """A backend that was asked for is not there, or cannot run this encoder."""


@dataclass(frozen=True)
class BackendChoice:
    """The backend that runs an image encoder.

    Attributes:
        name: ``"eager"``, ``"compile"`` or ``"openvino"``.
        reason: why it is this one, as a clause that follows the name.
    """

    name: str
    reason: str


def choose_backend(network: PromptableSam, backend: str = "auto") -> BackendChoice:
    """Decide on a backend for a network where it is now; nothing is converted or compiled yet.

    ``auto`` is OpenVINO on a CPU that multiplies in bfloat16, where it is installed and the encoder is worth the
    conversion; else PyTorch as it is, which in float32 takes no longer (``docs/performance.md``).
    ``compile`` is taken only where it is asked for: it compiles anew in every process, for longer than most runs last.

    Args:
        network: which device it is on, and how large its encoder is, decides.
        backend: a name in ``BACKENDS``.

    Raises:
        ValueError: there is no such backend.
        BackendError: it is not installed, or does not run on the network's device.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown backend {backend!r}: expected one of {', '.join(BACKENDS)}.")
    device = network.sam.pixel_mean.device.type
    installed = importlib.util.find_spec("openvino") is not None
    if backend == "auto":
        return _best(network, device, installed)
    if backend == "openvino" and device != "cpu":
        raise BackendError(
            f"The backend 'openvino' runs on a CPU and the network is on {device}: move it with network.to('cpu'), or "
            "choose another backend."
        )
    if backend == "openvino" and not installed:
        raise BackendError(
            "The backend 'openvino' needs OpenVINO, which is not installed: pip install 'monai-cobot[openvino]', or "
            "choose another backend."
        )
    return BackendChoice(backend, "it was asked for")


def _best(network: PromptableSam, device: str, installed: bool) -> BackendChoice:
    if device != "cpu":
        return BackendChoice("eager", f"the network is on {device}, where PyTorch's own kernels are fused already")
    if network.computing_type() == torch.float32:
        return BackendChoice("eager", "in float32 it takes no longer than what would have to be converted first")
    if _multiplications(network) < WORTH_CONVERTING:
        return BackendChoice("eager", "the image encoder is small, and converting it takes longer than it saves")
    if not installed:
        return BackendChoice(
            "eager",
            "OpenVINO is not installed (pip install 'monai-cobot[openvino]')",
        )
    return BackendChoice("openvino", "it is installed, and fuses on a CPU what PyTorch computes step by step")


def _multiplications(network: PromptableSam) -> float:
    """Of an image with the encoder's weights; attention between tokens comes in addition."""
    encoder = network.sam.image_encoder
    tokens = encoder.pos_embed.shape[1] * encoder.pos_embed.shape[2]  # of layers, adapters may have taken the place
    return float(tokens * sum(parameter.numel() for parameter in encoder.blocks.parameters()))
