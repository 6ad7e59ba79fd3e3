"""The methods against references in float64, written from the papers' equations, forward and backward."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Attention
from monai_cobot.peft import Adapter, adapt

RANK = 4


@pytest.fixture
def sam(tiny_sam) -> nn.Module:
    return tiny_sam.double()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def assert_same(
    ours: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    modules: list[nn.Module],
    x: Tensor,
    tolerance: float = 1e-9,
) -> None:
    """Compares output, gradient of the input and gradients of the modules' trained parameters, which both use."""
    trained = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    assert trained
    results = []
    for function in (ours, reference):
        leaf = x.clone().requires_grad_()
        output = function(leaf)
        gradients = torch.autograd.grad((output * random(*output.shape)).sum(), [leaf, *trained])
        results.append([output, *gradients])
    for one, other in zip(*results, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max()))


def hamilton(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The product of quaternions (w, x, y, z): i j = k, j k = i, k i = j."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def orchestrated(z: Tensor, adapter: Adapter, slot: int) -> Tensor:
    """z' of SAM-COBOT, Eq. 21, slot by slot and number by number: (..., V) -> (..., V)."""
    cobot = adapter.orchestrator
    tensor = cobot.communicated.T  # T of Eq. 5, the diagonals of its frontal slices: (V, L)
    mixed = sum(tensor[:, other] * cobot.relation[other, slot] for other in range(cobot.num_slots))
    z = z * mixed + z * cobot.local[slot]
    block = cobot.width // 4
    inputs = [tuple(z[..., part * block + index] for part in range(4)) for index in range(block)]
    columns: list[list[Tensor]] = [[], [], [], []]
    for output in range(block):
        products = [
            hamilton(tuple(cobot.quaternion[slot, part, index, output] for part in range(4)), inputs[index])
            for index in range(block)
        ]
        for part in range(4):
            columns[part].append(sum(product[part] for product in products))
    return torch.stack([column for part in columns for column in part], dim=-1)


@pytest.mark.parametrize("orchestrate", [False, True])
def test_lora_is_its_equation(sam, trained, orchestrate):
    adapter = trained(adapt(sam, "lora", rank=RANK, orchestrate=orchestrate))
    layer = sam.image_encoder.blocks[1].attn.qkv

    def reference(x: Tensor) -> Tensor:
        q, k, v = (x @ layer.weight.T + layer.bias).chunk(3, dim=-1)
        zq, zv = x @ layer.q.down.weight.T, x @ layer.v.down.weight.T
        if orchestrate:
            zq, zv = orchestrated(zq, adapter, 2), orchestrated(zv, adapter, 3)
        return torch.cat((q + zq @ layer.q.up.weight.T, k, v + zv @ layer.v.up.weight.T), dim=-1)

    def ours(x: Tensor) -> Tensor:
        if orchestrate:
            adapter.orchestrator.refresh()
        return layer(x)

    modules = [layer, adapter.orchestrator] if orchestrate else [layer]
    assert_same(ours, reference, modules, random(2, 3, 5, 48))


@pytest.mark.parametrize("orchestrate", [False, True])
def test_adaptformer_is_its_equation(sam, trained, orchestrate):
    adapter = trained(adapt(sam, "adaptformer", bottleneck=8, scale=0.3, dropout=0.0, orchestrate=orchestrate))
    block = sam.image_encoder.blocks[1]  # attends over the whole map

    def reference(x: Tensor) -> Tensor:
        x = x + Attention.forward(block.attn, block.norm1(x))
        mean = x.mean(-1, keepdim=True)
        deviation = ((x - mean).square().mean(-1, keepdim=True) + block.adapter.norm.eps).sqrt()
        normalised = (x - mean) / deviation * block.adapter.norm.weight + block.adapter.norm.bias
        z = normalised @ block.adapter.down.weight.T + block.adapter.down.bias
        if orchestrate:
            z = orchestrated(z, adapter, 1)
        beside = z.clamp(min=0) @ block.adapter.up.weight.T + block.adapter.up.bias
        return x + block.mlp(block.norm2(x)) + 0.3 * beside

    def ours(x: Tensor) -> Tensor:
        if orchestrate:
            adapter.orchestrator.refresh()
        return block(x)

    modules = [block.adapter, adapter.orchestrator] if orchestrate else [block.adapter]
    assert_same(ours, reference, modules, random(2, 5, 5, 48))


@pytest.mark.parametrize("layer_name", ["attn.proj", "mlp.lin2"])
def test_houlsbys_adapter_is_its_equation(sam, trained, layer_name):
    trained(adapt(sam, "houlsby", bottleneck=8))
    layer = sam.image_encoder.blocks[1].get_submodule(layer_name)

    def reference(x: Tensor) -> Tensor:
        y = x @ layer.weight.T + layer.bias
        return y + gelu(y @ layer.down.weight.T + layer.down.bias) @ layer.up.weight.T + layer.up.bias

    assert_same(layer, reference, [layer], random(2, 3, 5, layer.weight.shape[1]))


def test_a_prompt_of_sam_adapter_is_added_to_the_input_of_its_block(sam, trained):
    adapter = trained(adapt(sam, "sam_adapter", bottleneck=8))
    block, shared = sam.image_encoder.blocks[1], sam.image_encoder.patch_embed.up

    def reference(x: Tensor) -> Tensor:
        tokens, features = x[..., :48], x[..., 48:]
        prompt = gelu(features @ block.tune.weight.T + block.tune.bias) @ shared.weight.T + shared.bias
        return torch.cat((stock_block(block, tokens + prompt), features), dim=-1)

    assert "image_encoder.patch_embed.up.weight" in adapter.state_dict()
    assert_same(block, reference, [block.tune, shared], random(2, 5, 5, 48 + 8))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_block_of_the_ladder_is_its_equation(sam, trained, index):
    trained(adapt(sam, "lst", width=12))
    block = sam.image_encoder.blocks[index]
    block.window_size = block.side.window_size = 0  # over the whole map, as the reference

    def reference(x: Tensor) -> Tensor:
        tokens = stock_block(block, x[..., :48].detach())
        rung = tokens @ block.down.weight.T + block.down.bias
        if index > 0:
            share = 1 / (1 + torch.exp(-block.gate / 0.1))
            rung = share * rung + (1 - share) * x[..., 48:]
        side = stock_block(block.side, rung)
        if index < 2:
            return torch.cat((tokens, side), dim=-1) + x.mean()
        return tokens + side @ block.up.weight.T + block.up.bias + x.mean()

    def ours(x: Tensor) -> Tensor:
        return block(x) + x.mean()  # the first block has no gradient for its input, and one is compared

    if index > 0:
        assert abs(block.gate) > 0.01  # else its two shares would be the same
    assert_same(ours, reference, [block], random(2, 5, 5, 48 + (0 if index == 0 else 12)))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def stock_block(block: nn.Module, x: Tensor) -> Tensor:
    """A block of SAM that attends over the whole map."""
    x = x + Attention.forward(block.attn, block.norm1(x))
    return x + block.mlp(block.norm2(x))


def test_sam_parser_is_its_equation(sam, trained):
    original = sam.image_encoder.neck[2].weight.detach().clone()
    trained(adapt(sam, "sam_parser"))
    layer = sam.image_encoder.neck[2]
    left, values, right = np.linalg.svd(original.flatten(1).numpy(), full_matrices=False)
    assert np.abs(layer.singular_values.detach().numpy() - values).max() > 0.01

    def reference(x: Tensor) -> Tensor:
        weight = torch.from_numpy(left) @ torch.diag(layer.singular_values) @ torch.from_numpy(right)
        return F.conv2d(x, weight.view_as(original), padding=1)

    assert_same(layer, reference, [layer], random(2, 32, 5, 5), tolerance=1e-8)


def test_sam_parser_decomposes_in_double_precision_for_its_vectors_are_not_saved(tiny_sam):
    weight = tiny_sam.image_encoder.neck[2].weight.detach().clone()
    adapt(tiny_sam, "sam_parser")
    layer = tiny_sam.image_encoder.neck[2]
    left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    for found, expected in ((layer.left, left), (layer.singular_values, values), (layer.right, right)):
        assert torch.equal(found, expected.float())


def test_lora_is_that_of_hugging_face_for_the_same_factors(sam, trained):
    peft = pytest.importorskip("peft", reason="compares with Hugging Face peft, of the extra 'test'")
    linear = sam.image_encoder.blocks[0].attn.qkv
    trained(adapt(sam, "lora", rank=RANK))
    layer = sam.image_encoder.blocks[0].attn.qkv
    base = nn.Sequential(nn.Linear(48, 144)).double()
    base.load_state_dict({"0.weight": linear.weight, "0.bias": linear.bias})
    # ours are two of rank r over parts of the outputs, theirs is one of rank 2 r; alpha / rank = 1
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=2 * RANK, lora_alpha=2 * RANK, target_modules=["0"]))
    lora = theirs.base_model.model[0]
    down, up = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    with torch.no_grad():
        down.copy_(torch.cat((layer.q.down.weight, layer.v.down.weight)))
        up.zero_()
        up[:48, :RANK], up[96:, RANK:] = layer.q.up.weight, layer.v.up.weight

    x, weights = random(2, 3, 5, 48), random(2, 3, 5, 144)
    torch.testing.assert_close(layer(x), theirs(x))
    (layer(x) * weights).sum().backward()
    (theirs(x) * weights).sum().backward()
    torch.testing.assert_close(torch.cat((layer.q.down.weight.grad, layer.v.down.weight.grad)), down.grad)
    torch.testing.assert_close(layer.q.up.weight.grad, up.grad[:48, :RANK])
    torch.testing.assert_close(layer.v.up.weight.grad, up.grad[96:, RANK:])
    layer.merge()
    torch.testing.assert_close(layer.weight, theirs.merge_and_unload()[0].weight, check_dtype=False)
