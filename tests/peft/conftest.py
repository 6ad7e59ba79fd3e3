import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from monai_cobot.networks import VARIANTS, SamVariant, build_sam
from monai_cobot.peft import Adapter

SIZE = 64

TINY = SamVariant(
    width=48,
    depth=3,
    heads=3,
    global_blocks=(1,),
    image_size=40,
    patch_size=8,
    window_size=4,  # a map of 5 x 5 tokens: windows are padded
    prompt_width=32,
    decoder_heads=2,
    decoder_mlp_width=32,
)


def with_relative_positions(sam: nn.Module) -> nn.Module:
    """Gives a SAM relative positions that are not zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name:
                parameter.normal_(std=0.2, generator=generator)
    return sam


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights that begin at random are the same whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def small_sam() -> nn.Module:
    """vit_mini at 64 pixels."""
    return with_relative_positions(build_sam("vit_mini", image_size=SIZE))


@pytest.fixture(scope="session")
def tiny() -> Iterator[nn.Module]:
    """A SAM that computes in milliseconds, as a variant of its own."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its weights, which are random
        patch.setitem(VARIANTS, "tiny", TINY)
        torch.manual_seed(0)
        yield with_relative_positions(build_sam("tiny"))


@pytest.fixture
def tiny_sam(tiny: nn.Module) -> nn.Module:
    """A copy of the SAM that computes in milliseconds."""
    return copy.deepcopy(tiny)


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
