"""The one place where ``segment_anything`` is imported.

The package's ``__init__`` imports torchvision, which only its automatic mask generator and its predictor need: the
networks in ``segment_anything.modeling`` do not. Where torchvision is absent, or does not match the installed torch and
raises while it is imported, the package is registered here without running its ``__init__``, so that ``modeling``
imports all the same.

The registered package is lazy: asking it for any name that is not there (``from segment_anything import SamPredictor``)
runs the real ``__init__`` in it, which works as soon as torchvision does and otherwise fails with torchvision's own
error. It stays in ``sys.modules`` because pickling a network imports the top package of its class. Where torchvision
works, nothing of this happens.
"""

import importlib.util
import sys
from typing import Any


def _register_lazily() -> None:
    """Put ``segment_anything`` into ``sys.modules`` without running its ``__init__`` before it is asked for."""
    spec = importlib.util.find_spec("segment_anything")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("segment_anything is not installed: pip install segment-anything==1.0")
    loader = spec.loader
    package = importlib.util.module_from_spec(spec)

    def run_init(name: str) -> Any:
        # `from segment_anything import *` asks for __all__ first; other dunder names are asked for by inspecting tools
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'segment_anything' has no attribute {name!r}")
        loader.exec_module(package)
        del package.__dict__["__getattr__"]
        return getattr(package, name)

    package.__dict__["__getattr__"] = run_init
    sys.modules["segment_anything"] = package


try:
    import segment_anything  # noqa: F401
except Exception:  # a torchvision that does not match torch raises RuntimeError, OSError, ...
    _register_lazily()

# ruff: noqa: E402
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    PatchEmbed,
    window_partition,
    window_unpartition,
)
from segment_anything.modeling.transformer import Attention as DecoderAttention
from segment_anything.modeling.transformer import TwoWayAttentionBlock

__all__ = [
    "Attention",
    "Block",
    "DecoderAttention",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MLPBlock",
    "MaskDecoder",
    "PatchEmbed",
    "PromptEncoder",
    "Sam",
    "TwoWayAttentionBlock",
    "TwoWayTransformer",
    "window_partition",
    "window_unpartition",
]
