"""Small SAMs with every weight random, so that no term of the arithmetic is zero."""

from collections.abc import Callable

import pytest
import torch

from monai_cobot.networks import build_sam
from monai_cobot.networks._segment_anything import Sam


@pytest.fixture
def random_sam() -> Callable[..., Sam]:
    """Builds a ``vit_mini`` whose zero-initialised embeddings, biases and tables are random too."""

    def build(image_size: int = 64) -> Sam:
        sam = build_sam("vit_mini", image_size=image_size)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in sam.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return sam

    return build


@pytest.fixture
def shallow_sam(random_sam: Callable[..., Sam]) -> Callable[..., Sam]:
    """Builds the same with two blocks alone, one with windows and one that attends over the whole map."""

    def build(image_size: int = 64) -> Sam:
        sam = random_sam(image_size)
        sam.image_encoder.blocks = sam.image_encoder.blocks[2:4]
        return sam

    return build
