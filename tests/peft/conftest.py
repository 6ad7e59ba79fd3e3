from collections.abc import Callable

import pytest
import torch
from torch import nn

from monai_cobot.networks import build_sam
from monai_cobot.peft import Adapter

SIZE = 64


@pytest.fixture
def small_sam() -> nn.Module:
    """A SAM that computes in milliseconds: vit_mini at 64 pixels, whose relative positions are not zero."""
    sam = build_sam("vit_mini", image_size=SIZE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name:
                parameter.normal_(std=0.2, generator=generator)
    return sam


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def trained() -> Callable[[Adapter], Adapter]:
    """Gives an adapter's own parameters new values, as training would."""

    def train(adapter: Adapter) -> Adapter:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for _, parameter in adapter.named_parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return adapter

    return train
