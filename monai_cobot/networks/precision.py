"""The type in which a network computes; its weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

PRECISIONS = ("auto", "float32", "bfloat16")

_PRODUCTS = frozenset((F.linear, F.conv2d, F.conv_transpose2d))
"""What SAM and its adapters multiply weights with: (input, weight, bias, ...), all cast by autocast."""

WORTH_HOLDING = 20_000_000
"""Weights from which a network's casts are held. Looking them up takes about 5 ms a pass, whatever the size; casting
takes that for some 10 million weights on a core. ``vit_mini`` has 5 million, ViT-B 94 million."""


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


class HeldWeights:
    """Frozen weights in the type in which products are computed, cast once and not at every pass.

    Autocast keeps a cast weight for one pass at most, and a frozen one not even for that. Here casts are kept beside
    the weights for as long as these live: half as much memory again for what is frozen. The weights themselves, and so
    state dicts, digests and adapter files, are not touched. A weight that is written to, replaced or moved is cast
    anew; only writing through ``.data`` goes unnoticed. A weight that is trained is left to autocast, which passes its
    gradient on.

    A copy, or what is unpickled, begins with none.
    """

    def __init__(self) -> None:
        self._casts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def cast(self, weight: object, dtype: torch.dtype) -> object:
        """A frozen float32 parameter in a type, everything else as it is."""
        if not isinstance(weight, nn.Parameter) or weight.dtype != torch.float32 or weight.is_inference():
            return weight
        if weight.requires_grad and torch.is_grad_enabled():
            return weight
        state = (weight.data_ptr(), weight._version, dtype)
        held = self._casts.get(weight)
        if held is None or held[0] != state:
            with torch.inference_mode(False):
                held = (state, weight.detach().to(dtype))
            self._casts[weight] = held
        return held[1]

    def clear(self) -> None:
        """Forget all casts."""
        self._casts = WeakTensorKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, _: Mapping[str, Any]) -> None:
        self.clear()

    def __deepcopy__(self, _: dict[int, Any]) -> HeldWeights:
        return HeldWeights()


class _WithHeldWeights(TorchFunctionMode):
    """Hands held casts to products with weights; autocast then has nothing left to cast."""

    def __init__(self, held: HeldWeights, dtype: torch.dtype) -> None:
        super().__init__()
        self._held = held
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _PRODUCTS:
            args = (args[0], *(self._held.cast(weight, self._dtype) for weight in args[1:3]), *args[3:])
        return func(*args, **(kwargs or {}))


@contextmanager
def autocast_to(dtype: torch.dtype, device: torch.device, held: HeldWeights | None = None) -> Iterator[None]:
    """The context in which products are computed in bfloat16; for float32, one that changes nothing.

    In a trace nothing changes either: an exported network computes in float32, wherever it is taken.

    Args:
        dtype: float32 or bfloat16.
        device: where the network is.
        held: where casts of frozen weights are kept; None leaves them to autocast. What is computed is the same.
    """
    if dtype == torch.float32 or torch.jit.is_tracing():
        yield
    elif held is None:
        with torch.autocast(device.type, dtype):
            yield
    else:
        with torch.autocast(device.type, dtype), _WithHeldWeights(held, dtype):
            yield
