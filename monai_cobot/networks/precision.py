"""The type in which a network computes; its weights stay as they are."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 itself (AMX or AVX-512 BF16; CUDA from Ampere on)."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def computing_type(precision: str, device: torch.device) -> torch.dtype:
    """The type that a precision means on a device.

    Args:
        precision: ``"float32"``; ``"bfloat16"``; ``"auto"``, bfloat16 where the device has it and float32 elsewhere.
        device: where the network is.

    Raises:
        ValueError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    if precision == "float32" or (precision == "auto" and not has_fast_bfloat16(device)):
        return torch.float32
    return torch.bfloat16


def autocast_to(dtype: torch.dtype, device: torch.device) -> AbstractContextManager:
    """The context in which products are computed in bfloat16; for float32, one that changes nothing.

    In a trace nothing changes either: an exported network computes in float32, wherever it is taken.
    """
    if dtype == torch.float32 or torch.jit.is_tracing():
        return nullcontext()
    return torch.autocast(device.type, dtype)
