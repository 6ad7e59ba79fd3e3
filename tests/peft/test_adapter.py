"""What an adapter can do, whatever the method; what every method must do stands in ``test_contract.py``."""

import copy

import pytest
import torch
from torch import nn

from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import AdaptedModule, CrossBlockOrchestrator, adapt, options_of

WITH_BOTTLENECK = ("lora", "adaptformer")


def predict(sam: nn.Module, image: torch.Tensor) -> torch.Tensor:
    boxes = torch.tensor([[4.0, 6.0, 50.0, 40.0], [10.0, 10.0, 60.0, 63.0]])
    return PromptableSam(sam)(image, boxes[: len(image)])


@pytest.mark.parametrize("arguments", [{"method": "lora", "orchestrate": True}, {"method": "bitfit"}])
def test_a_removed_adapter_says_that_it_is(tiny_sam, arguments):
    adapter = adapt(tiny_sam, **arguments)
    adapter.remove()
    uses = (adapter.remove, adapter.merge, adapter.unmerge, adapter.fold, adapter.state_dict)
    for use in (*uses, adapter.count_parameters, adapter.prepare_for_inference, adapter.auxiliary_loss):
        with pytest.raises(ValueError, match="was removed from its SAM"):
            use()
    adapt(tiny_sam, "lora")


def test_removing_keeps_weights_that_were_assigned_meanwhile(tiny_sam):
    adapter = adapt(tiny_sam, "lora")
    state = {name: tensor + 1 for name, tensor in tiny_sam.state_dict().items()}
    tiny_sam.load_state_dict(state, assign=True)
    adapter.remove()
    name = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(tiny_sam.state_dict()[name], state[name])


def test_removing_leaves_no_gradient_of_what_was_trained(tiny_sam, image):
    adapter = adapt(tiny_sam, "bitfit")
    predict(tiny_sam, image).sum().backward()
    adapter.remove()
    assert all(parameter.grad is None for parameter in tiny_sam.parameters())


def test_the_types_of_a_sam_stay_what_they_were_where_they_are_mixed(tiny_sam):
    for block in tiny_sam.image_encoder.blocks:
        block.mlp.bfloat16()
    types = {name: parameter.dtype for name, parameter in tiny_sam.named_parameters()}
    adapter = adapt(tiny_sam, "adaptformer")
    assert {name: p.dtype for name, p in tiny_sam.named_parameters() if name in types} == types
    adapter.remove()
    assert {name: parameter.dtype for name, parameter in tiny_sam.named_parameters()} == types


def test_a_frozen_sam_is_frozen_again_after_removing(tiny_sam):
    adapter = adapt(tiny_sam.requires_grad_(False), "lora")
    assert all(parameter.requires_grad for _, parameter in adapter.named_parameters())
    adapter.remove()
    assert not any(parameter.requires_grad for parameter in tiny_sam.parameters())


@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_weights_loaded_into_a_merged_adapter_are_merged_in_their_turn(tiny_sam, image, trained, decoder):
    adapter = trained(adapt(tiny_sam, "lora", orchestrate=True, decoder=decoder))
    state = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    expected = predict(tiny_sam, image)
    trained(adapter).merge()
    adapter.load_state_dict(state)
    torch.testing.assert_close(predict(tiny_sam, image), expected, rtol=1e-4, atol=1e-4)
    assert tiny_sam.image_encoder.blocks[0].attn.qkv.merged
    adapter.unmerge()
    torch.testing.assert_close(predict(tiny_sam, image), expected)


def test_folding_a_merged_adapter_keeps_it_merged_and_its_output(tiny_sam, image, trained):
    adapter = trained(adapt(tiny_sam, "lora", orchestrate=True))
    expected = predict(tiny_sam, image)
    adapter.merge()
    adapter.fold()
    torch.testing.assert_close(predict(tiny_sam, image), expected, rtol=1e-4, atol=1e-4)
    adapter.unmerge()
    torch.testing.assert_close(predict(tiny_sam, image), expected, rtol=1e-4, atol=1e-4)


def test_a_merged_layer_does_without_the_adapter(tiny_sam, trained):
    adapter = trained(adapt(tiny_sam, "lora"))
    layer = tiny_sam.image_encoder.blocks[0].attn.qkv
    original = layer.weight.clone()
    adapter.merge()
    assert not torch.equal(layer.weight, original)
    x = torch.rand(1, 4, 4, layer.in_features)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)


def test_weights_of_another_shape_are_an_error_and_nothing_is_loaded(small_sam):
    adapter = adapt(small_sam, "lora", rank=4)
    other = adapt(build_sam("vit_mini", image_size=64), "lora", rank=8)
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    with pytest.raises(ValueError, match=r"do not fit .* of another shape \['image_encoder.blocks.0.attn.qkv.q.down"):
        adapter.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="missing"):
        adapter.load_state_dict({})
    assert all(torch.equal(adapter.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_copied_network_is_adapted_on_its_own(tiny_sam, image, trained):
    adapter = adapt(tiny_sam, "adaptformer", orchestrate=True)
    twin = copy.deepcopy(PromptableSam(tiny_sam))
    before = twin(image)
    trained(adapter)
    assert torch.equal(twin(image), before)
    assert not torch.equal(predict(tiny_sam, image), before)


@pytest.mark.parametrize("hypercomplex", ["quaternion", "linear", "none"])
@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_half_precision_is_the_same_before_and_after_adapting(tiny_sam, image, trained, method, hypercomplex):
    half = copy.deepcopy(tiny_sam).to(torch.bfloat16)
    adapter = trained(adapt(tiny_sam, method, orchestrate=True, decoder="lora", hypercomplex=hypercomplex))
    tiny_sam.to(torch.bfloat16)
    adapt(half, method, orchestrate=True, decoder="lora", hypercomplex=hypercomplex).load_state_dict(
        adapter.state_dict()
    )
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(predict(half, image), predict(tiny_sam, image), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_a_compiled_encoder_computes_the_same_and_follows_training(tiny_sam, trained, method):
    adapter = adapt(tiny_sam, method, orchestrate=True)
    frame = torch.rand(2, 3, 40, 40)
    compiled = torch.compile(tiny_sam.image_encoder, backend="aot_eager")
    for _ in range(2):
        trained(adapter)
        torch.testing.assert_close(compiled(frame), tiny_sam.image_encoder(frame), rtol=1e-4, atol=1e-5)
    compiled(frame).sum().backward()
    assert adapter.orchestrator.relation.grad.abs().max() > 0


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_the_matrices_are_computed_once_in_a_pass(tiny_sam, image, monkeypatch, method):
    adapter = adapt(tiny_sam, method, orchestrate=True)
    calls = []
    compute = adapter.orchestrator.mixing_matrices
    monkeypatch.setattr(adapter.orchestrator, "mixing_matrices", lambda: calls.append(1) or compute())
    predict(tiny_sam, image)
    assert len(calls) == 1


def test_data_parallel_training_gives_the_same_gradients(tiny_sam, image, trained, tmp_path):
    adapter = trained(adapt(tiny_sam, "adaptformer", orchestrate=True, dropout=0.0))
    network = PromptableSam(tiny_sam).train()
    network(image).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None}
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        # the decoder's three other mask tokens are not used
        parallel = nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
        for _ in range(2):
            network.zero_grad()
            parallel(image).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, gradient in expected.items():
        found = tiny_sam.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_cobot_multiplies_the_bottleneck_by_its_matrix(small_sam, trained):
    adapter = trained(adapt(small_sam, "lora", orchestrate=True))
    layer = small_sam.image_encoder.blocks[3].attn.qkv
    x = torch.randn(5, layer.in_features)
    adapter.orchestrator.refresh()
    matrices = adapter.orchestrator.mixing_matrices()
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    width = layer.in_features
    expected[:, :width] += x @ layer.q.down.weight.T @ matrices[6] @ layer.q.up.weight.T
    expected[:, 2 * width :] += x @ layer.v.down.weight.T @ matrices[7] @ layer.v.up.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_cobot_learns_at_a_hundred_times_the_rate(small_sam):
    groups = {group["name"]: group for group in adapt(small_sam, "lora", orchestrate=True).parameter_groups(1e-6)}
    assert {name: group["lr"] for name, group in groups.items()} == pytest.approx(
        {"adapter": 1e-6, "decoder": 1e-6, "orchestration": 1e-4}
    )
    sizes = {name: sum(parameter.numel() for parameter in group["params"]) for name, group in groups.items()}
    assert sizes["orchestration"] == 16 * (4 + 4 + 16 + 4)
    assert sizes["adapter"] == 8 * 4 * 192 * 4


def test_parts_without_parameters_have_no_group(small_sam):
    assert [group["name"] for group in adapt(small_sam, "decoder_only").parameter_groups(1e-3)] == ["decoder"]


def test_a_class_head_can_be_all_that_is_trained(small_sam):
    adapter = adapt(small_sam, "decoder_only", decoder="frozen", classes=2)
    assert {name.split(".")[1] for name, _ in adapter.named_parameters()} == {"class_head"}


def test_nothing_to_train_is_an_error(tiny_sam):
    with pytest.raises(ValueError, match=r"'freeze' .* nothing to train"):
        adapt(tiny_sam, "freeze").parameter_groups(1e-3)


def test_methods_without_an_auxiliary_loss_add_nothing(tiny_sam, image):
    adapter = adapt(tiny_sam, "lora")
    predict(tiny_sam, image)
    assert adapter.auxiliary_loss() == 0


@pytest.mark.parametrize(("decoder", "expected"), [("frozen", 0), ("full", 756_340)])
def test_the_decoder_takes_part_as_asked(small_sam, decoder, expected):
    assert adapt(small_sam, "lora", decoder=decoder).count_parameters()["decoder"] == expected


def test_a_low_rank_decoder_starts_equal_trains_little_and_merges(small_sam, image, trained):
    before = predict(small_sam, image)
    adapter = adapt(small_sam, "lora", orchestrate=True, decoder="lora")
    assert torch.equal(predict(small_sam, image), before)
    assert 0 < adapter.count_parameters()["decoder"] < 50_000
    assert not small_sam.mask_decoder.mask_tokens.weight.requires_grad
    trained(adapter)
    changed = predict(small_sam, image)
    assert not torch.allclose(changed, before)
    adapter.merge()
    torch.testing.assert_close(predict(small_sam, image), changed, rtol=1e-4, atol=1e-4)
    adapter.remove()
    assert torch.equal(predict(small_sam, image), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "prefix"}, "Unknown method 'prefix'; choose one of adaptformer, bitfit, conv_lora, "),
        ({"method": "lora", "bottleneck": 8}, "no option 'bottleneck'; it has rank"),
        ({"method": "lora", "relation": "fixed"}, "COBOT's need orchestrate=True"),
        (
            {"method": "lora", "orchestrate": True, "rank": 6},
            "divisible by 4, .* leave COBOT out with orchestrate=False",
        ),
        ({"method": "lora", "rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"method": "lora", "rank": "4"}, "rank must be a whole number of at least 1, got '4'"),
        ({"method": "adaptformer", "bottleneck": 8.0}, r"bottleneck must be a whole number of at least 1, got 8\.0"),
        ({"method": "lora", "rank": True}, "rank must be a whole number of at least 1, got True"),
        ({"method": "lora", "blocks": 0}, "blocks must be a whole number of at least 1, got 0"),
        ({"method": "lora", "blocks": 2.0}, r"blocks must be a whole number of at least 1, got 2\.0"),
        ({"method": "adaptformer", "blocks": 9}, "blocks=9 does not fit this encoder: expected 1 to 8"),
        ({"method": "adaptformer", "dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"method": "houlsby", "bottleneck": 0}, "bottleneck must be a whole number of at least 1, got 0"),
        ({"method": "conv_lora", "rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"method": "conv_lora", "experts": 1}, "experts must be a whole number of at least 2, got 1"),
        ({"method": "conv_lora", "orchestrate": True}, "divisible by 4, but the width is 3"),
        ({"method": "sam_adapter", "bottleneck": 0}, "bottleneck must be a whole number of at least 1, got 0"),
        ({"method": "sam_adapter", "mask_ratio": 1.0}, r"mask_ratio must lie in \[0, 1\), got 1\.0"),
        ({"method": "vpt", "prompts": 0}, "prompts must be a whole number of at least 1, got 0"),
        ({"method": "lst", "width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"method": "bitfit", "blocks": 9}, "blocks=9 does not fit this encoder: expected 1 to 8"),
        ({"method": "lora", "decoder": "half"}, "Unknown decoder mode 'half'; choose one of full, frozen, lora"),
        ({"method": "decoder_only", "decoder": "frozen"}, "trains nothing"),
    ],
)
def test_what_cannot_be_is_a_clear_error_and_leaves_the_sam_as_it_was(small_sam, arguments, message):
    keys = set(small_sam.state_dict())
    with pytest.raises(ValueError, match=message):
        adapt(small_sam, **arguments)
    assert set(small_sam.state_dict()) == keys
    assert all(parameter.requires_grad for parameter in small_sam.parameters())
    adapt(small_sam, "lora")


@pytest.mark.parametrize(
    ("allocating", "step"),
    [(AdaptedModule, "_apply"), (CrossBlockOrchestrator, "_apply"), (torch.Tensor, "clone")],
    ids=["the method's modules", "COBOT's parameters", "the decoder's weights of before"],
)
def test_a_lack_of_memory_leaves_the_sam_as_it_was(tiny_sam, monkeypatch, allocating, step):
    kinds = {name: type(module) for name, module in tiny_sam.named_modules()}
    allocate, calls = getattr(allocating, step), []

    def without_memory(*arguments, **options):
        calls.append(1)
        if allocating is AdaptedModule and len(calls) < 3:  # a few modules still fit
            return allocate(*arguments, **options)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(allocating, step, without_memory)
        with pytest.raises(torch.OutOfMemoryError):
            adapt(tiny_sam, "adaptformer", orchestrate=True)
    assert {name: type(module) for name, module in tiny_sam.named_modules()} == kinds
    assert all(parameter.requires_grad for parameter in tiny_sam.parameters())
    assert not tiny_sam.image_encoder._forward_pre_hooks
    adapt(tiny_sam, "lora")


def test_adapting_twice_is_an_error(tiny_sam):
    adapt(tiny_sam, "lora")
    with pytest.raises(ValueError, match=r"adapted already \(with 'lora'\); call remove\(\)"):
        adapt(tiny_sam, "adaptformer")


def test_one_config_can_name_the_options_of_several_methods():
    assert options_of("lora", rank=4, bottleneck=16) == {"rank": 4}
    assert options_of("lora", rank=None, blocks=2) == {"blocks": 2}
    assert options_of("adaptformer", rank=4, bottleneck=16) == {"bottleneck": 16}
    assert options_of("decoder_only", rank=4, bottleneck=16, blocks=2) == {}
