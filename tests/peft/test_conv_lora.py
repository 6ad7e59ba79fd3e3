"""What is Conv-LoRA's own: experts of several scales, the gate, and the balancing loss."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks import PromptableSam, set_gradient_checkpointing
from monai_cobot.peft import adapt
from monai_cobot.peft.conv_lora import ConvolutionalLowRankLinear, NoisyTopOneGate, ScaleExperts


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer_with_opinions(multiply_by_gate: bool) -> ConvolutionalLowRankLinear:
    """A layer of three experts whose gate chooses by the map."""
    torch.manual_seed(0)
    layer = ConvolutionalLowRankLinear(nn.Linear(8, 24), 4, 32.0, 3, multiply_by_gate)
    nn.init.normal_(layer.up.weight)
    nn.init.normal_(layer.experts.gate.weight, std=5)
    nn.init.normal_(layer.experts.gate.noise, std=5)
    return layer.double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("multiply_by_gate", [True, False])
def test_each_map_gets_its_own_expert_as_the_equations_say(multiply_by_gate, training):
    layer = layer_with_opinions(multiply_by_gate).train(training)
    x = random(12, 5, 3, 8).double()
    torch.manual_seed(4)
    output = layer(x)
    torch.manual_seed(4)
    noise = torch.randn(12, 3, dtype=torch.float64) if training else torch.zeros(12, 3)
    chosen = set()
    for index in range(12):
        z = torch.einsum("hwd,rd->rhw", x[index], layer.down.weight)
        g = z.mean((1, 2))
        deviation = torch.log1p(torch.exp(g @ layer.experts.gate.noise)) + 0.01
        probabilities = (g @ layer.experts.gate.weight + noise[index] * deviation).softmax(0)
        expert = int(probabilities.argmax())
        chosen.add(expert)
        convolution = layer.experts.convolutions[expert]
        y = F.interpolate(z[None], (5 * (expert + 1), 3 * (expert + 1)), mode="bicubic")
        y = F.gelu(F.conv2d(y, convolution.weight, convolution.bias, padding=1))
        y = F.interpolate(y, (5, 3), mode="bicubic")[0]
        z = z + y * (probabilities[expert] if multiply_by_gate else 1)
        update = torch.einsum("rhw,dr->hwd", z, layer.up.weight) * 32 / 4
        torch.testing.assert_close(output[index], x[index] @ layer.weight.T + layer.bias + update)
    assert chosen == {0, 1, 2}
    assert (layer.auxiliary_loss() is None) == (not training)


def test_the_load_is_the_probability_with_which_noise_chooses_an_expert():
    torch.manual_seed(0)
    gate = NoisyTopOneGate(4, 3)
    nn.init.normal_(gate.weight)
    nn.init.normal_(gate.noise)
    z = random(1, 4, 5, 5).expand(20_000, -1, -1, -1)
    chosen, probability, load = gate(z)
    frequency = F.one_hot(chosen, 3).float().mean(0)
    assert (frequency > 0.02).all()
    torch.testing.assert_close(load.mean(0), frequency, atol=0.01, rtol=0)
    assert ((probability > 1 / 3) & (probability <= 1)).all()


@pytest.mark.parametrize("multiply_by_gate", [True, False])
def test_balancing_is_the_variation_of_importance_and_load_and_grows_with_imbalance(multiply_by_gate):
    layer = layer_with_opinions(multiply_by_gate).train()
    x = random(12, 5, 3, 8).double()
    torch.manual_seed(3)
    layer(x)
    loss = layer.auxiliary_loss()
    torch.manual_seed(3)
    chosen, probability, load = layer.experts.gate(layer.down(x).permute(0, 3, 1, 2))
    weights = probability if multiply_by_gate else None
    importance = torch.bincount(chosen, weights, minlength=3).double()
    expected = sum((values.std() / values.mean()) ** 2 for values in (importance, load.sum(0)))
    torch.testing.assert_close(loss, 0.01 * expected)
    with torch.no_grad():
        layer.experts.gate.weight.zero_()
        layer.experts.gate.noise.zero_()
    layer(random(3000, 5, 3, 8).double())
    assert layer.auxiliary_loss() < 0.01 * loss


def test_the_gate_learns_from_the_task_but_not_in_the_published_form():
    for multiply_by_gate, learns in ((True, True), (False, False)):
        layer = layer_with_opinions(multiply_by_gate).train()
        layer(random(12, 5, 3, 8).double()).square().sum().backward()
        assert (layer.experts.gate.weight.grad.abs().max() > 0) == learns
        layer.zero_grad()
        layer(random(12, 5, 3, 8).double())
        layer.auxiliary_loss().backward()
        assert layer.experts.gate.weight.grad.abs().max() > 0


def test_what_checkpointing_computes_again_is_no_second_balancing_loss(tiny_sam, trained):
    trained(adapt(tiny_sam, "conv_lora"))
    set_gradient_checkpointing(tiny_sam, True)
    network = PromptableSam(tiny_sam).train()
    layers = [module for module in tiny_sam.modules() if isinstance(module, ConvolutionalLowRankLinear)]
    loss = network(random(2, 1, 40, 40).sigmoid()).square().mean()
    before = [layer.auxiliary_loss() for layer in layers]
    loss.backward()
    assert all(layer.auxiliary_loss() is balance for layer, balance in zip(layers, before, strict=True))


def test_experts_that_no_map_chose_have_a_gradient_of_zero():
    experts = ScaleExperts(4, 5, multiply_by_gate=True).eval()
    experts(random(2, 4, 3, 3))[0].sum().backward()  # a fresh gate chooses the first
    assert [bool(convolution.weight.grad.abs().max() > 0) for convolution in experts.convolutions] == [True] + 4 * [
        False
    ]


def test_a_trace_chooses_anew_for_every_image():
    layer = layer_with_opinions(multiply_by_gate=True).eval()
    x = random(12, 5, 3, 8).double()
    traced = torch.jit.trace(layer, x[:2], check_trace=False)
    torch.testing.assert_close(traced(x[4:6]), layer(x[4:6]))
    choices = [int(layer.experts.gate(layer.down(one[None]).permute(0, 3, 1, 2))[0]) for one in x]
    assert choices[4:6] != choices[:2]


@pytest.mark.parametrize("multiply_by_gate", [True, False])
def test_data_parallel_training_balances_and_accumulates_as_a_single_process(
    tiny_sam, trained, tmp_path, multiply_by_gate
):
    adapter = trained(adapt(tiny_sam, "conv_lora", multiply_by_gate=multiply_by_gate))
    network = PromptableSam(tiny_sam).train()
    images = random(4, 1, 40, 40).sigmoid()

    def gradients(network: nn.Module) -> dict[str, Tensor]:
        network.zero_grad()
        torch.manual_seed(5)
        for batch in images.split(2):  # accumulated
            loss = network(batch).square().mean() + adapter.auxiliary_loss()
            (loss / 2).backward()
        return {name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None}

    expected = gradients(network)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = gradients(nn.parallel.DistributedDataParallel(network, find_unused_parameters=True))
    finally:
        torch.distributed.destroy_process_group()
    assert expected.keys() <= found.keys()
    assert expected["image_encoder.blocks.0.attn.qkv.experts.gate.noise"].abs().max() > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
