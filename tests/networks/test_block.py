import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from monai_cobot.networks import FusedAttention, FusedBlock, block, set_attention
from monai_cobot.networks._segment_anything import Block, Sam


def stock_and_fused(grid: int, window_size: int) -> tuple[Block, FusedBlock]:
    torch.manual_seed(0)
    stock = Block(48, num_heads=3, use_rel_pos=True, window_size=window_size, input_size=(grid, grid))
    for parameter in stock.parameters():
        nn.init.normal_(parameter, std=0.3)
    fused = copy.deepcopy(stock)
    fused.__class__, fused.attn.__class__ = FusedBlock, FusedAttention
    return stock, fused


def output_and_gradients(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = module(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((out * weights).sum(), (x, *module.parameters()))
    return out, gradients[0], torch.cat([gradient.flatten() for gradient in gradients[1:]])


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


# without windows; windows that fit; windows with padding; one window that is larger than the image
@pytest.mark.parametrize(("grid", "window_size"), [(9, 0), (14, 7), (16, 7), (19, 7), (5, 7)])
def test_output_and_gradients_equal_the_stock_block(grid: int, window_size: int) -> None:
    stock, fused = stock_and_fused(grid, window_size)
    x = torch.randn(2, grid, grid, 48)
    for ours, theirs in zip(output_and_gradients(fused, x), output_and_gradients(stock, x), strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("tokens", [1, 100, 1000])
@pytest.mark.parametrize(("batch", "grid", "window_size"), [(1, 19, 7), (3, 16, 7), (2, 9, 0)])
def test_bands_of_any_size_give_the_output_of_the_stock_block(
    monkeypatch: pytest.MonkeyPatch, batch: int, grid: int, window_size: int, tokens: int
) -> None:
    monkeypatch.setattr(block, "BAND_TOKENS", tokens)
    stock, fused = stock_and_fused(grid, window_size)
    x = torch.randn(batch, grid, grid, 48)
    before = x.clone()
    with torch.no_grad():
        assert_near(fused(x), stock(x))
    assert torch.equal(x, before)


def test_a_layer_that_looks_at_its_neighbours_gets_whole_windows_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter with a convolution would see the edge of a band otherwise."""

    class WithNeighbours(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.layer(x.roll(1, dims=1))

    monkeypatch.setattr(block, "BAND_TOKENS", 1)
    stock, fused = stock_and_fused(16, 7)
    for one in (stock, fused):
        one.attn.qkv = WithNeighbours(one.attn.qkv)
        one.mlp.lin1 = WithNeighbours(one.mlp.lin1)
    x = torch.randn(1, 16, 16, 48)
    with torch.no_grad():
        assert_near(fused(x), stock(x))


def test_a_hook_sees_what_the_whole_image_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "BAND_TOKENS", 1)
    _, fused = stock_and_fused(16, 7)
    seen: list[tuple[int, ...]] = []
    fused.mlp.lin1.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    with torch.no_grad():
        fused(torch.randn(1, 16, 16, 48))
    assert seen == [(1, 16, 16, 192)]


def test_hooks_on_the_attention_itself_see_windows_as_in_stock() -> None:
    x, shapes = torch.randn(1, 16, 16, 48), []
    for one in stock_and_fused(16, 7):
        seen: list[tuple[int, ...]] = []
        one.attn.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(("forward", *output.shape)))
        one.attn.register_full_backward_hook(lambda _m, _i, output, seen=seen: seen.append(("back", *output[0].shape)))
        one(x.clone().requires_grad_()).sum().backward()
        shapes.append(seen)
    assert shapes[0] == shapes[1] == [("forward", 9, 7, 7, 48), ("back", 9, 7, 7, 48)]


def test_the_products_with_weights_leave_the_padding_of_windows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused = stock_and_fused(16, 7)
    tokens: list[int] = []
    linear = nn.functional.linear

    def counting(x: Tensor, *parameters: Tensor) -> Tensor:
        tokens.append(x.shape[:-1].numel())
        return linear(x, *parameters)

    monkeypatch.setattr(nn.functional, "linear", counting)
    fused(torch.randn(1, 16, 16, 48))
    assert max(tokens) == 16 * 16  # with the padding, they would be 21 * 21


def test_switching_to_stock_and_back_switches_blocks_too(random_sam: Callable[..., Sam]) -> None:
    sam = random_sam()
    assert {type(one) for one in sam.image_encoder.blocks} == {FusedBlock}
    set_attention(sam, "stock")
    assert {type(one) for one in sam.image_encoder.blocks} == {Block}
    set_attention(sam.image_encoder, "fused")
    assert {type(one) for one in sam.image_encoder.blocks} == {FusedBlock}
