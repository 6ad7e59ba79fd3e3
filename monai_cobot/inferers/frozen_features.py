"""Training and validation that compute nothing frozen twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_cobot.data.feature_cache import FeatureCache, releases
from monai_cobot.networks import FrozenFeatures, PromptableSam, frozen_depth
from monai_cobot.networks.sam import variant_of
from monai_cobot.transforms.augmentation import image_augmentations

__all__ = ["FrozenFeatureInferer", "open_feature_cache"]

logger = logging.getLogger(__name__)

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def open_feature_cache(
    network: PromptableSam,
    weights: str,
    transform: Callable[..., Any],
    folder: str | Path,
    max_gb: float,
    image_key: str = "image",
    dtype: str = "float32",
) -> FeatureCache | None:
    """Where the features in front of the first trained weight are kept, if keeping them is worth it and exact.

    It is where the encoder's first block and what is in front of it are frozen, and every epoch shows the same images.
    The log says so, or what keeps from it.

    Args:
        network: with its adapter, on the device where it will run.
        weights: names the frozen weights: ``Adapter.base_sha256``.
        transform: what the images of training go through.
        folder: where the files go.
        max_gb: bound of the folder in units of 10^9 bytes; 0 for no cache.
        image_key: entry of the image in the samples.
        dtype: ``"float32"``, in which features are computed whatever the network's precision, or ``"bfloat16"``, which
            takes half of the disk and rounds them.

    Returns:
        The cache; None for none.

    Raises:
        ValueError: for another type, or a bound below 0.
    """
    depth = frozen_depth(network.sam)
    if max_gb == 0 or depth == 0:
        return None
    changing = image_augmentations(transform, image_key)
    if changing:
        names = ", ".join(changing)
        logger.info("Frozen image features are computed anew in every epoch: %s may change images.", names)
        return None
    if dtype not in _TYPES:
        raise ValueError(f"Features are kept as {' or '.join(_TYPES)}, not as {dtype!r}.")
    size = network.sam.image_encoder.img_size
    computed = str(network.computing_type()).removeprefix("torch.")
    source = f"{variant_of(network.sam)}_{size}_depth{depth}_{computed}_as_{dtype}_{releases()}_{weights[:32]}"
    blocks = len(network.sam.image_encoder.blocks)
    part = "the image encoder" if depth > blocks else f"the first {depth} of {blocks} blocks"
    logger.info("Computed once an image and kept in %s (at most %g GB): %s.", folder, max_gb, part)
    return FeatureCache(folder, source, max_gb, _TYPES[dtype], keep_used=True)


class FrozenFeatureInferer(Inferer):
    """Runs a network from its frozen features on, which are looked up in a cache and computed where they are not there.

    Features are computed image by image, so that they do not depend on which images share a batch: a training that is
    resumed, or begins with a full cache, computes the same.

    Args:
        network: the network, bare; it computes what is missing.
        cache: as :func:`open_feature_cache` gives it; None runs the network as it is.
    """

    def __init__(self, network: PromptableSam, cache: FeatureCache | None) -> None:
        super().__init__()
        self.network = network
        self.cache = cache
        self.depth = frozen_depth(network.sam)

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        boxes: Tensor | None = None,
        digests: Sequence[str] = (),
    ) -> Tensor:
        """Segment the object in each box.

        Args:
            inputs: images (B, 1 or 3, H, W).
            network: the network, bare or wrapped, for several processes or compiled.
            boxes: as for the network.
            digests: the digest of each image, by which its features are kept.
        """
        if self.cache is None:
            return network(inputs, boxes)
        if len(digests) != len(inputs):
            raise ValueError(
                f"Expected the digest of each of {len(inputs)} images, by which its features are kept, got "
                f"{len(digests)}: let the data set add them (digest=True), or give no cache."
            )
        values = [self._features(image, digest, self.cache) for image, digest in zip(inputs, digests, strict=True)]
        return network(inputs, boxes, FrozenFeatures(torch.stack(values), self.depth))

    def _features(self, image: Tensor, digest: str, cache: FeatureCache) -> Tensor:
        weight: nn.Parameter = self.network.sam.image_encoder.pos_embed
        values = cache.get(digest)
        if values is None:
            values = self.network.encode_frozen(image[None], self.depth).values[0].to(cache.dtype)
            cache.put(digest, values)
        return values.to(weight.device, weight.dtype)
