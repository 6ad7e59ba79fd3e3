"""The image encoder through OpenVINO, on a CPU."""

from __future__ import annotations

import copy
import logging
import threading
import time
import warnings
from contextlib import suppress
from os import PathLike
from typing import Any

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from monai_cobot.networks._segment_anything import ImageEncoderViT
from monai_cobot.networks.backends.choice import BackendError
from monai_cobot.networks.backends.openvino_cache import OpenVinoCache, encoder_digest
from monai_cobot.networks.block import set_attention

logger = logging.getLogger(__name__)


class OpenVinoEncoder:
    """An image encoder in OpenVINO, converted once for all processes that use the same weights.

    Args:
        encoder: with or without adapters; stays as it is.
        dtype: the type in which products are computed. float32 is exactly that: OpenVINO's own default would be
            bfloat16 where the processor has it.
        cache_dir: where converted encoders are kept; a folder of the user's cache if None.

    Raises:
        BackendError: OpenVINO cannot convert this encoder.
    """

    def __init__(
        self, encoder: ImageEncoderViT, dtype: torch.dtype, cache_dir: str | PathLike[str] | None = None
    ) -> None:
        cache = OpenVinoCache(cache_dir)
        digest = encoder_digest(encoder)
        model = cache.get(digest)
        if model is None:
            begin = time.perf_counter()
            model = convert_encoder(encoder)
            logger.info("The image encoder was converted to OpenVINO in %.0f s.", time.perf_counter() - begin)
            cache.put(digest, model)
        self._compiled = compile_model(model, dtype)
        self._lock = threading.Lock()  # a compiled model keeps one set of buffers

    def __call__(self, image: Tensor) -> Tensor:
        """Normalised image (1, 3, size, size) -> its embedding (1, C, h, w) in float32."""
        with self._lock:
            (embedding,) = self._compiled(image.float().contiguous().numpy(), share_inputs=True).values()
        return torch.from_numpy(embedding)


@torch.no_grad()
def convert_encoder(encoder: ImageEncoderViT) -> Any:
    """Convert an image encoder for one image at a time, with float32 weights.

    What merges into SAM's weights is merged, in a copy; what remains of COBOT depends on weights alone and is computed
    once, when OpenVINO compiles the model. The attention is segment_anything's own form, which OpenVINO fuses better
    than the bias as a mask or in the product: 1.29 s on one core for the attention of a global block of ViT-B at 1024
    pixels, against 1.69 s and 1.97 s.

    Args:
        encoder: with or without adapters; stays as it is.

    Returns:
        An ``openvino.Model`` (1, 3, size, size) -> (1, C, h, w).

    Raises:
        BackendError: OpenVINO cannot convert it.
    """
    plain = copy.deepcopy(encoder).float().eval()
    set_attention(plain, "stock")
    for module in plain.modules():
        if hasattr(module, "merge"):  # an adapter; one that is not linear stays beside the weights
            with suppress(TypeError):
                module.merge()
    try:
        return convert_module(plain, torch.zeros(1, 3, encoder.img_size, encoder.img_size))
    except Exception as error:  # the tracer's, the frontend's own kinds
        reason = " ".join(str(error).split())[:300]
        raise BackendError(
            f"OpenVINO {openvino.__version__} cannot convert this image encoder ({reason}): choose the backend "
            "'eager', or 'compile'."
        ) from error


def convert_module(module: nn.Module, *example: Tensor) -> Any:
    """Convert a module for inputs of these shapes, without the report of its use that ``openvino.convert_model`` makes.

    Returns:
        An ``openvino.Model``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are constants, as they should be
        traced = torch.jit.trace(module, example, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    # weights are copied, not shared: the traced ones are gone when the model is read
    decoder = TorchScriptPythonDecoder(traced, shared_memory=False)
    return frontend.convert(frontend.load(decoder))  # the decoder must live until here


def compile_model(model: Any, dtype: torch.dtype) -> Any:
    """Make a converted model ready for one input at a time, on as many threads as torch has.

    Args:
        model: an ``openvino.Model``.
        dtype: the type in which products are computed, float32 or bfloat16.

    Returns:
        An ``openvino.CompiledModel``.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }
    return openvino.Core().compile_model(model, "CPU", settings)
