"""What is VPT's, SAM-Adapter's and LST's own."""

import math

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn

from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.networks._segment_anything import Attention
from monai_cobot.peft import adapt
from monai_cobot.peft.sam_adapter import high_frequencies


def attention_of_all(attention: Attention, prompts: Tensor, tokens: Tensor) -> Tensor:
    """Attention over (P, D) and (H, W, D) with the matrix of all pairs: (P + H W, D)."""
    count, (height, width) = len(prompts), tokens.shape[:2]
    x = torch.cat((prompts, tokens.flatten(0, 1)))
    rows, columns = get_rel_pos(height, height, attention.rel_pos_h), get_rel_pos(width, width, attention.rel_pos_w)
    heads = []
    for q, k, v in attention.qkv(x).unflatten(1, (3, attention.num_heads, -1)).permute(2, 1, 0, 3):
        logits = q @ k.T * attention.scale
        for a in range(height * width):
            for b in range(height * width):
                relative = rows[a // width, b // width] + columns[a % width, b % width]
                logits[count + a, count + b] += q[count + a] @ relative
        heads.append(logits.softmax(1) @ v)
    return attention.proj(torch.cat(heads, dim=1))


def rest_of(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    x = x + attended
    return x + block.mlp(block.norm2(x))


def test_prompts_begin_uniform_within_a_bound_by_the_sizes_of_patch_and_token(tiny_sam):
    adapt(tiny_sam, "vpt", prompts=500)
    bound = math.sqrt(6 / (3 * 8 * 8 + 48))
    for block in tiny_sam.image_encoder.blocks:
        assert 0.99 * bound < block.prompts.abs().max() <= bound


@torch.no_grad()
def test_deep_prompts_are_tokens_of_the_block_that_are_left_out_afterwards(tiny_sam, trained):
    trained(adapt(tiny_sam, "vpt", prompts=3))
    block = tiny_sam.image_encoder.blocks[1]  # attends over the whole map
    x = torch.randn(2, 5, 5, 48)
    output = block(x)
    for index in range(2):
        attended = attention_of_all(block.attn, block.norm1(block.prompts), block.norm1(x[index]))
        expected = rest_of(block, x[index], attended[3:].unflatten(0, (5, 5)))
        torch.testing.assert_close(output[index], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prompts_join_every_window_and_shallow_ones_go_on_as_the_mean_over_windows(tiny_sam, trained):
    trained(adapt(tiny_sam, "vpt", prompts=7, deep=False))
    block = tiny_sam.image_encoder.blocks[0]
    x = torch.randn(1, 5, 5, 48)
    output = block(x)
    assert output.shape == (1, 7, 5, 48)  # seven prompts in two rows of five

    normed = torch.zeros(8, 8, 48)  # SAM pads windows of 4 x 4 with zeros
    normed[:5, :5] = block.norm1(x[0])
    attended, prompts = torch.zeros(8, 8, 48), []
    for row in (0, 4):
        for column in (0, 4):
            window = normed[row : row + 4, column : column + 4]
            out = attention_of_all(block.attn, block.norm1(block.prompts), window)
            prompts.append(out[:7])
            attended[row : row + 4, column : column + 4] = out[7:].unflatten(0, (4, 4))
    torch.testing.assert_close(output[0, :5], rest_of(block, x[0], attended[:5, :5]), rtol=1e-4, atol=1e-5)
    expected = rest_of(block, block.prompts, torch.stack(prompts).mean(0))
    torch.testing.assert_close(output[0, 5:].flatten(0, 1)[:7], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (15, 12), (7, 9)])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.6])
def test_high_frequencies_are_those_outside_a_centred_mask(shape, ratio):
    image = np.random.default_rng(0).standard_normal((2, 3, *shape)).astype(np.float32)
    spectrum = np.fft.fftshift(np.fft.fft2(image), axes=(-2, -1))
    half = int((shape[0] * shape[1] * ratio) ** 0.5 // 2)
    row, column = shape[0] // 2, shape[1] // 2
    spectrum[..., row - half : row + half, column - half : column + half] = 0
    expected = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1))).real)
    found = high_frequencies(torch.from_numpy(image), ratio)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_flat_image_has_no_high_frequencies_and_a_fine_grating_has_nothing_else():
    assert high_frequencies(torch.full((1, 3, 16, 16), 5.0), 0.25).abs().max() < 1e-5
    grating = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 3, 16, 16)
    torch.testing.assert_close(high_frequencies(grating, 0.25), grating.abs())


def test_the_frozen_encoder_computes_without_a_graph_beside_a_ladder(tiny_sam, trained):
    adapter = trained(adapt(tiny_sam, "lst"))
    frozen = [
        module
        for block in tiny_sam.image_encoder.blocks
        for part in (block.norm1, block.attn, block.norm2, block.mlp)
        for module in part.modules()
    ]
    in_a_graph: list[bool] = []
    backward: list[nn.Module] = []
    for module in frozen:
        module.register_forward_hook(lambda _, __, output: in_a_graph.append(output.requires_grad))
    for module in frozen:
        module.register_full_backward_hook(lambda module, *_: backward.append(module))
    PromptableSam(tiny_sam).train()(torch.rand(1, 1, 40, 40)).square().sum().backward()
    assert len(in_a_graph) == len(frozen) > 20
    assert not any(in_a_graph)
    assert backward == []
    assert all(p.grad is not None for name, p in adapter.named_parameters() if name.startswith("image_encoder."))


def test_a_ladder_keeps_less_for_the_backward_pass_than_lora_does():
    kept = {}
    for method in ("lst", "lora"):
        sam = build_sam("vit_mini", image_size=64)
        adapt(sam, method, decoder="frozen")
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            embedding = sam.image_encoder(torch.rand(1, 3, 64, 64))
        parameters = {parameter.untyped_storage().data_ptr() for parameter in sam.parameters()}
        kept[method] = sum(size for pointer, size in sizes.items() if pointer not in parameters)
        del embedding
    assert kept["lst"] < 0.8 * kept["lora"]
