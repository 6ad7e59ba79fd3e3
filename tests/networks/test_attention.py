import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from monai_cobot.networks import FusedAttention, set_attention, tiled_attention
from monai_cobot.networks._segment_anything import Attention, Block, Sam

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def make(kind: type[Attention], height: int, width: int, table: tuple[int, int] | None = None) -> Attention:
    torch.manual_seed(0)
    attention = kind(48, num_heads=3, use_rel_pos=True, input_size=table or (height, width))
    nn.init.normal_(attention.rel_pos_h)
    nn.init.normal_(attention.rel_pos_w)
    return attention


def run(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients with regard to the input and all parameters."""
    x = x.clone().requires_grad_()
    out = module(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.device)
    gradients = torch.autograd.grad((out.float() * weights).sum(), (x, *module.parameters()))
    # the gradient of the keys' bias is zero in theory, and rounding in fact: weighed against all others
    return out, gradients[0], torch.cat([gradient.flatten() for gradient in gradients[1:]])


def assert_equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


SHAPES = [(14, 14), (7, 5), (1, 3), (16, 16), (19, 23), (32, 9)]  # a window, odd, not square, few and many tokens


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_output_and_gradients_equal_the_stock_attention(height: int, width: int, device: str) -> None:
    x = torch.randn(2, height, width, 48, generator=torch.Generator().manual_seed(2)).to(device)
    ours, theirs = (run(make(kind, height, width).to(device), x) for kind in (FusedAttention, Attention))
    assert_equal(ours, theirs)


# less than a row of queries a tile; some rows, with a rest; some heads, with a rest; all at once
@pytest.mark.parametrize("pairs", [1, 3000, 200000, 2**24])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_tiles_of_any_size_give_output_and_gradients_of_the_stock_attention(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, pairs: int
) -> None:
    monkeypatch.setattr(tiled_attention, "TILE_PAIRS", pairs)
    monkeypatch.setattr("monai_cobot.networks.attention.TILE_PAIRS", 0)  # tiles, however few the tokens are
    x = torch.randn(2, height, width, 48, generator=torch.Generator().manual_seed(2))
    assert_equal(run(make(FusedAttention, height, width), x), run(make(Attention, height, width), x))


def test_what_is_kept_for_the_backward_pass_grows_as_the_bias_by_row_and_column_not_as_the_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monai_cobot.networks.attention.TILE_PAIRS", 0)
    kept: dict[int, int] = {}
    for side in (12, 24):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()), lambda x: x):
            make(FusedAttention, side, side)(torch.randn(1, side, side, 48))
        kept[side] = max(sizes)
    assert kept[24] <= 8 * kept[12]  # four times the tokens with twice the rows and columns; sixteen times the pairs


@pytest.mark.parametrize("side", [8, 20])
def test_a_table_of_another_size_is_interpolated_as_in_the_stock_attention(side: int) -> None:
    x = torch.randn(1, side, side, 48)
    assert_equal(run(make(FusedAttention, side, side, (13, 11)), x), run(make(Attention, side, side, (13, 11)), x))


@pytest.mark.parametrize("grid", [4, 16, 19])
def test_a_window_block_with_padding_equals_the_stock_block(grid: int) -> None:
    torch.manual_seed(0)
    stock = Block(48, num_heads=3, use_rel_pos=True, window_size=7, input_size=(grid, grid))
    nn.init.normal_(stock.attn.rel_pos_h)
    fused = copy.deepcopy(stock)
    fused.attn.__class__ = FusedAttention
    x = torch.randn(2, grid, grid, 48)
    assert_equal(run(fused, x), run(stock, x))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", [7, 16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_its_gradients_stay_near_the_stock_attention(
    dtype: torch.dtype, side: int, device: str
) -> None:
    x = torch.randn(1, side, side, 48).to(device)
    expected = run(make(Attention, side, side).to(device), x)
    fused = make(FusedAttention, side, side).to(device)
    with torch.autocast(device, dtype):
        under_autocast = run(fused, x)
    assert under_autocast[0].dtype == dtype
    whole = fused.to(dtype)(x.to(dtype))
    for number, (out, exact) in enumerate(zip((*under_autocast, whole), (*expected, expected[0]), strict=True)):
        tolerance = 0.05 if number in (1, 2) else 0.03  # gradients pass through twice as many products
        assert (out.float() - exact).norm() < tolerance * exact.norm()


def test_switching_keeps_keys_values_children_and_hooks(random_sam: Callable[..., Sam]) -> None:
    sam = random_sam()
    attention = sam.image_encoder.blocks[0].attn
    attention.qkv = adapted = nn.Sequential(attention.qkv)  # as an adapter that takes the place of qkv
    calls: list[int] = []
    adapted.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        fused = sam.image_encoder(x)
        keys = list(sam.state_dict())
        set_attention(sam, "stock")
        assert type(sam.image_encoder.blocks[0].attn) is Attention
        stock = sam.image_encoder(x)
    assert list(sam.state_dict()) == keys
    assert len(calls) == 2
    torch.testing.assert_close(fused, stock, rtol=1e-4, atol=1e-4)
    set_attention(sam, "fused")
    assert type(sam.image_encoder.blocks[0].attn) is FusedAttention


def test_an_unknown_kind_is_refused(random_sam: Callable[..., Sam]) -> None:
    with pytest.raises(ValueError, match="'flash'"):
        set_attention(random_sam(), "flash")  # type: ignore[arg-type]


def test_copies_and_pickles_give_the_same_output() -> None:
    attention = make(FusedAttention, 16, 16)
    x = torch.randn(1, 16, 16, 48)
    for other in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        assert torch.equal(other(x), attention(x))


@pytest.mark.parametrize("side", [7, 16])
def test_compiling_captures_one_graph_with_the_same_output(side: int) -> None:
    attention = make(FusedAttention, side, side)
    x = torch.randn(1, side, side, 48)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(attention, fullgraph=True, backend="eager")(x), attention(x))
