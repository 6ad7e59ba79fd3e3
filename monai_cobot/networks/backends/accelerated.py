"""A promptable SAM whose image encoder runs in a backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from os import PathLike

import torch
from torch import Tensor, nn
from typing_extensions import Self

from monai_cobot.networks.backends.choice import BackendChoice, BackendError, choose_backend
from monai_cobot.networks.promptable import FrozenFeatures, PromptableSam

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, size, size) -> image embeddings (B, C, h, w)."""


class AcceleratedSam(PromptableSam):
    """A promptable SAM for inference, with the same weights and the same results as the network it was made of.

    Only the image encoder runs in the backend; the mask decoder takes a small share of the time. Made by
    :func:`accelerate`. Nothing in it has gradients, and ``train()`` is an error: go on training the network it was made
    of, and accelerate that again.

    A converted or compiled encoder is a snapshot. Where weights of the encoder have changed since, ``forward`` and
    ``encode`` are errors instead of answers of the old weights. The decoder is not part of it.

    Attributes:
        choice: the backend, and why it is that one.
    """

    forward = torch.no_grad()(PromptableSam.forward)
    encode = torch.no_grad()(PromptableSam.encode)
    decode = torch.no_grad()(PromptableSam.decode)

    def __init__(self, network: PromptableSam, choice: BackendChoice, encode: Encode | None) -> None:
        super().__init__(network.sam, network.precision, network.held_weights)
        self.train(False)
        self.choice = choice
        self._encode_whole = encode
        self._snapshot = _versions(self.sam.image_encoder)

    @torch.no_grad()
    def encode_stepwise(self, image: Tensor) -> Iterator[FrozenFeatures]:
        """As ``PromptableSam.encode_stepwise``; a backend other than eager knows one step only."""
        if self._encode_whole is None:
            yield from super().encode_stepwise(image)
        else:
            yield FrozenFeatures(self.encode(image), len(self.sam.image_encoder.blocks) + 1)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode.

        Raises:
            BackendError: for training mode.
        """
        if mode:
            raise BackendError(
                "An accelerated network is for inference: train the network it was made of, and call accelerate again "
                "afterwards."
            )
        return super().train(False)

    def _run_encoder(self, pixels: Tensor, until: int | None) -> Tensor:
        if self._encode_whole is None or until is not None:
            return super()._run_encoder(pixels, until)
        if _versions(self.sam.image_encoder) != self._snapshot:
            raise BackendError(
                f"The image encoder's weights or device have changed since it was made ready for {self.choice.name!r}: "
                "call accelerate again."
            )
        # one by one: a batch is no faster on a CPU, and every size of it would be another conversion
        return torch.cat([self._encode_whole(image) for image in pixels.split(1)])

    def _shares_encoder_with(self, network: PromptableSam) -> bool:
        """Whether the image encoder of a network computes with the very tensors that this one was made ready with."""
        encoder, precision = network.sam.image_encoder, network.computing_type()
        return precision == self.computing_type() and _versions(encoder) == self._snapshot


def accelerate(
    network: PromptableSam,
    backend: str = "auto",
    cache_dir: str | PathLike[str] | None = None,
    beside: AcceleratedSam | None = None,
) -> AcceleratedSam:
    """Run a network's image encoder as fast as this machine can.

    Takes what ``PromptableSam`` takes and gives what it gives, up to rounding. The network shares its weights
    and is put into evaluation mode. The log says which backend was chosen and why.

    Args:
        network: with or without adapters, merged, folded or not, on the device where it will run.
        backend: ``"eager"``, PyTorch as it is; ``"compile"``, ``torch.compile``, which takes about a minute (and a
            C++ compiler on a CPU); ``"openvino"``, which converts the encoder once and keeps it on disk;
            ``"auto"``, as ``choose_backend`` decides.
        cache_dir: where converted encoders are kept, of all weights together, never beyond
            ``openvino_cache.MAX_BYTES``; it may be deleted at any time. A folder of the user's cache if None.
        beside: a network that was accelerated with the same backend, and whose image encoder is the same, adapters
            included; where it has the very same tensors, what was converted or compiled of it is shared.

    Returns:
        The network for inference; its ``choice`` is what was chosen.

    Raises:
        ValueError: there is no such backend.
        BackendError: the backend that was asked for is not installed, does not run on the network's device, or cannot
            convert this encoder. Under ``auto``, the next one is taken.
    """
    if beside is not None and beside._shares_encoder_with(network):
        network.eval()
        return AcceleratedSam(network, beside.choice, beside._encode_whole)
    choice = choose_backend(network, backend)
    network.eval()
    try:
        encode = _prepare(network, choice.name, cache_dir)
    except BackendError as error:
        if backend != "auto":
            raise
        logger.warning("%s", error)
        choice, encode = BackendChoice("eager", "OpenVINO cannot convert the image encoder, as said above"), None
    logger.info("The image encoder runs in %s: %s.", choice.name, choice.reason)
    return AcceleratedSam(network, choice, encode)


def _versions(encoder: nn.Module) -> list[tuple[int, int]]:
    """What differs once a weight of the encoder is written to, replaced or moved."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


def _prepare(network: PromptableSam, backend: str, cache_dir: str | PathLike[str] | None) -> Encode | None:
    """The encoder in a backend; None for the encoder itself.

    Raises:
        BackendError: it cannot be made.
    """
    if backend == "eager":
        return None
    try:
        if backend == "compile":
            from monai_cobot.networks.backends.compiled import CompiledEncoder

            return CompiledEncoder(network.sam.image_encoder, network.computing_type())
        from monai_cobot.networks.backends.openvino import OpenVinoEncoder

        return OpenVinoEncoder(network.sam.image_encoder, network.computing_type(), cache_dir)
    except BackendError:
        raise
    except Exception as error:  # an old OpenVINO, one without its cache's package, no memory: each says it its own way
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise BackendError(
            f"The backend {backend!r} cannot be used here ({reason}): choose 'eager', or see to it."
        ) from error
