"""One contract over the registry: what every method must do, and COBOT over those that have a bottleneck."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from monai_cobot.networks import PromptableSam, build_sam, set_gradient_checkpointing
from monai_cobot.peft import METHODS, adapt, options_of

WITH_BOTTLENECK = ("lora", "adaptformer")
MERGEABLE = ("freeze", "decoder_only", "lora")
CASES = [(method, False) for method in sorted(METHODS)] + [(method, True) for method in WITH_BOTTLENECK]
TRAINABLE = [case for case in CASES if case[0] != "freeze"]
all_cases = pytest.mark.parametrize(("method", "orchestrate"), CASES)
trainable_cases = pytest.mark.parametrize(("method", "orchestrate"), TRAINABLE)


def predict(sam: nn.Module, image: torch.Tensor) -> torch.Tensor:
    boxes = torch.tensor([[4.0, 6.0, 50.0, 40.0], [10.0, 10.0, 60.0, 63.0]])
    return PromptableSam(sam)(image, boxes[: len(image)])


@pytest.mark.parametrize(
    ("method", "orchestrate", "options", "expected"),
    [
        ("lora", False, {"rank": 4}, 147_456),
        ("lora", True, {"rank": 4}, 148_320),
        ("adaptformer", False, {"bottleneck": 16}, 322_752),
        ("adaptformer", True, {"bottleneck": 16}, 324_048),
        # of the last N blocks: 4 N D r, and COBOT over 2 N or N slots
        ("lora", False, {"rank": 4, "blocks": 3}, 36_864),
        ("lora", True, {"rank": 4, "blocks": 3}, 36_864 + 6 * (4 + 4 + 6 + 4)),
        ("adaptformer", False, {"bottleneck": 16, "blocks": 1}, 26_896),
        ("adaptformer", True, {"bottleneck": 16, "blocks": 1}, 26_896 + 1 * (16 + 16 + 1 + 64)),
        ("decoder_only", False, {}, 0),
        ("freeze", False, {}, 0),
    ],
)
def test_trained_parameters_on_vit_b_are_those_of_the_paper(vit_b, method, orchestrate, options, expected):
    adapter = adapt(vit_b, method, orchestrate=orchestrate, **options)
    counts = adapter.count_parameters()
    adapter.remove()
    assert counts == {"encoder": expected, "decoder": 0 if method == "freeze" else 4_058_340}


@pytest.fixture(scope="module")
def vit_b() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_sam("vit_b", image_size=64)


@all_cases
def test_a_fresh_adapter_changes_nothing(small_sam, image, method, orchestrate):
    with torch.no_grad():  # attention takes another kernel where a gradient is wanted
        before = predict(small_sam, image)
        adapt(small_sam, method, orchestrate=orchestrate)
        assert torch.equal(predict(small_sam, image), before)


@all_cases
def test_sams_state_dict_keeps_its_keys(small_sam, method, orchestrate):
    keys = set(small_sam.state_dict())
    adapter = adapt(small_sam, method, orchestrate=orchestrate)
    assert keys <= set(small_sam.state_dict())
    assert set(small_sam.state_dict()) - keys <= set(adapter.state_dict())


@trainable_cases
def test_gradients_reach_all_of_the_adapter_and_the_decoder_and_nothing_else(
    small_sam, image, trained, method, orchestrate
):
    adapter = trained(adapt(small_sam, method, orchestrate=orchestrate))
    boxes = torch.tensor([[4.0, 6.0, 50.0, 40.0], [10.0, 10.0, 60.0, 63.0]])
    network = PromptableSam(small_sam).train()
    embedding = network.encode(image)
    logits, quality = network.decode(embedding, boxes, image.shape[-2:])
    (logits.sum() + quality.sum()).backward()
    own = {name for name, _ in adapter.named_parameters()}
    with_gradient = {name for name, parameter in small_sam.named_parameters() if parameter.grad is not None}
    # the decoder's three other mask tokens answer only where several masks are asked for
    unused = {name for name in own if "hypernetworks_mlps" in name and name.split(".")[2] != "0"}
    assert with_gradient == own - unused
    adapters = [name for name in own if name.startswith("image_encoder.")]
    assert all(small_sam.get_parameter(name).grad.abs().max() > 0 for name in adapters)


@trainable_cases
def test_removing_gives_back_the_sam_as_it_was(small_sam, image, trained, method, orchestrate):
    before = predict(small_sam, image)
    state = {name: tensor.clone() for name, tensor in small_sam.state_dict().items()}
    trained(adapt(small_sam, method, orchestrate=orchestrate)).remove()
    assert torch.equal(predict(small_sam, image), before)
    assert small_sam.state_dict().keys() == state.keys()
    assert all(torch.equal(small_sam.state_dict()[name], tensor) for name, tensor in state.items())
    assert all(parameter.requires_grad for parameter in small_sam.parameters())
    adapt(small_sam, method, orchestrate=orchestrate)


def test_a_removed_adapter_says_that_it_is(small_sam):
    adapter = adapt(small_sam, "lora", orchestrate=True)
    adapter.remove()
    for use in (adapter.remove, adapter.merge, adapter.fold, adapter.state_dict, adapter.count_parameters):
        with pytest.raises(ValueError, match="was removed from its SAM"):
            use()
    adapt(small_sam, "lora")


def test_removing_keeps_weights_that_were_assigned_meanwhile(small_sam):
    adapter = adapt(small_sam, "lora")
    state = {name: tensor + 1 for name, tensor in small_sam.state_dict().items()}
    small_sam.load_state_dict(state, assign=True)
    adapter.remove()
    name = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(small_sam.state_dict()[name], state[name])


def test_a_frozen_sam_is_frozen_again_after_removing(small_sam):
    adapter = adapt(small_sam.requires_grad_(False), "lora")
    assert all(parameter.requires_grad for _, parameter in adapter.named_parameters())
    adapter.remove()
    assert not any(parameter.requires_grad for parameter in small_sam.parameters())


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_folding_leaves_the_plain_base_method_with_the_same_output(small_sam, image, trained, method):
    plain = set(adapt(copy.deepcopy(small_sam), method).state_dict())
    adapter = trained(adapt(small_sam, method, orchestrate=True))
    before = predict(small_sam, image)
    adapter.fold()
    torch.testing.assert_close(predict(small_sam, image), before, rtol=1e-4, atol=1e-5)
    assert set(adapter.state_dict()) == plain
    assert adapter.orchestrator is None
    assert adapter.orchestration is None


@pytest.mark.parametrize(("method", "orchestrate"), [case for case in CASES if case[0] in MERGEABLE])
def test_merging_keeps_the_output_and_unmerging_the_weights(small_sam, image, trained, method, orchestrate):
    adapter = trained(adapt(small_sam, method, orchestrate=orchestrate))
    before = predict(small_sam, image)
    state = {name: tensor.clone() for name, tensor in small_sam.state_dict().items()}
    adapter.merge()
    adapter.merge()
    torch.testing.assert_close(predict(small_sam, image), before, rtol=1e-4, atol=1e-4)
    adapter.unmerge()
    assert all(torch.equal(small_sam.state_dict()[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_weights_loaded_into_a_merged_adapter_are_merged_in_their_turn(small_sam, image, trained, decoder):
    adapter = trained(adapt(small_sam, "lora", orchestrate=True, decoder=decoder))
    state = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    expected = predict(small_sam, image)
    trained(adapter).merge()
    adapter.load_state_dict(state)
    torch.testing.assert_close(predict(small_sam, image), expected, rtol=1e-4, atol=1e-4)
    assert small_sam.image_encoder.blocks[0].attn.qkv.merged
    adapter.unmerge()
    torch.testing.assert_close(predict(small_sam, image), expected)


def test_folding_a_merged_adapter_keeps_it_merged_and_its_output(small_sam, image, trained):
    adapter = trained(adapt(small_sam, "lora", orchestrate=True))
    expected = predict(small_sam, image)
    adapter.merge()
    adapter.fold()
    torch.testing.assert_close(predict(small_sam, image), expected, rtol=1e-4, atol=1e-4)
    adapter.unmerge()
    torch.testing.assert_close(predict(small_sam, image), expected, rtol=1e-4, atol=1e-4)


def test_a_merged_layer_does_without_the_adapter(small_sam, trained):
    adapter = trained(adapt(small_sam, "lora"))
    layer = small_sam.image_encoder.blocks[0].attn.qkv
    original = layer.weight.clone()
    adapter.merge()
    assert not torch.equal(layer.weight, original)
    x = torch.rand(1, 4, 4, layer.in_features)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)


@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_adaptformer_refuses_to_merge_says_why_and_changes_nothing(small_sam, image, trained, decoder):
    adapter = trained(adapt(small_sam, "adaptformer", decoder=decoder))
    before = predict(small_sam, image)
    with pytest.raises(TypeError, match="ReLU"):
        adapter.merge()
    assert torch.equal(predict(small_sam, image), before)


@all_cases
def test_weights_loaded_into_a_second_sam_give_the_same_output(small_sam, image, trained, method, orchestrate):
    twin = copy.deepcopy(small_sam)
    torch.manual_seed(0)
    adapter = trained(adapt(small_sam, method, orchestrate=orchestrate))
    torch.manual_seed(1)
    adapt(twin, method, orchestrate=orchestrate).load_state_dict(adapter.state_dict())
    assert torch.equal(predict(twin, image), predict(small_sam, image))


def test_weights_of_another_shape_are_an_error_and_nothing_is_loaded(small_sam):
    adapter = adapt(small_sam, "lora", rank=4)
    other = adapt(build_sam("vit_mini", image_size=64), "lora", rank=8)
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    with pytest.raises(ValueError, match=r"do not fit .* of another shape \['image_encoder.blocks.0.attn.qkv.q.down"):
        adapter.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="missing"):
        adapter.load_state_dict({})
    assert all(torch.equal(adapter.state_dict()[name], tensor) for name, tensor in before.items())


@all_cases
def test_copies_and_pickles_compute_the_same_and_live_on_their_own(small_sam, image, trained, method, orchestrate):
    adapter = trained(adapt(small_sam, method, orchestrate=orchestrate))
    before = predict(small_sam, image)
    for twin in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert torch.equal(predict(twin.sam, image), before)
        trained(twin).fold()
        twin.remove()
    assert torch.equal(predict(small_sam, image), before)


def test_a_copied_network_is_adapted_on_its_own(small_sam, image, trained):
    adapter = adapt(small_sam, "adaptformer", orchestrate=True)
    twin = copy.deepcopy(PromptableSam(small_sam))
    before = twin(image)
    trained(adapter)
    assert torch.equal(twin(image), before)
    assert not torch.equal(predict(small_sam, image), before)


@trainable_cases
def test_gradients_under_checkpointing_are_those_without(small_sam, image, trained, method, orchestrate):
    adapter = trained(adapt(small_sam, method, orchestrate=orchestrate, **options_of(method, dropout=0.0)))
    gradients = []
    for enabled in (False, True):
        set_gradient_checkpointing(small_sam, enabled)
        small_sam.train().zero_grad()
        predict(small_sam, image).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("hypercomplex", ["quaternion", "linear", "none"])
@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_half_precision_works_before_and_after_adapting(small_sam, image, trained, method, hypercomplex):
    half = copy.deepcopy(small_sam).to(torch.bfloat16)
    adapter = trained(adapt(small_sam, method, orchestrate=True, decoder="lora", hypercomplex=hypercomplex))
    exact = predict(small_sam, image)
    assert (predict(small_sam.to(torch.bfloat16), image) - exact).norm() < 0.1 * exact.norm()
    adapt(half, method, orchestrate=True, decoder="lora", hypercomplex=hypercomplex).load_state_dict(
        adapter.state_dict()
    )
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(predict(half, image), predict(small_sam, image), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_bfloat16_autocast_trains_float32_parameters(small_sam, image, trained, method):
    adapter = trained(adapt(small_sam, method, orchestrate=True, **options_of(method, dropout=0.0)))
    exact = predict(small_sam, image)
    with torch.autocast("cpu", torch.bfloat16):
        logits = predict(small_sam.train(), image)
    assert (logits.float() - exact).norm() < 0.05 * exact.norm()
    logits.float().square().sum().backward()
    assert adapter.orchestrator.relation.grad.dtype == torch.float32
    assert adapter.orchestrator.relation.grad.abs().max() > 0


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_a_compiled_encoder_computes_the_same_and_follows_training(small_sam, image, trained, method):
    small_sam.image_encoder.blocks = small_sam.image_encoder.blocks[:3]  # compiling takes seconds a block
    adapter = adapt(small_sam, method, orchestrate=True)
    compiled = torch.compile(small_sam.image_encoder, backend="aot_eager")
    for _ in range(2):
        trained(adapter)
        torch.testing.assert_close(compiled(image), small_sam.image_encoder(image), rtol=1e-4, atol=1e-5)
    compiled(image).sum().backward()
    assert adapter.orchestrator.relation.grad.abs().max() > 0


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_the_matrices_are_computed_once_in_a_pass(small_sam, image, monkeypatch, method):
    adapter = adapt(small_sam, method, orchestrate=True)
    calls = []
    compute = adapter.orchestrator.mixing_matrices
    monkeypatch.setattr(adapter.orchestrator, "mixing_matrices", lambda: calls.append(1) or compute())
    predict(small_sam, image)
    assert len(calls) == 1


def test_data_parallel_training_gives_the_same_gradients(small_sam, image, trained, tmp_path):
    adapter = trained(adapt(small_sam, "adaptformer", orchestrate=True, dropout=0.0))
    network = PromptableSam(small_sam).train()
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
        found = small_sam.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_cobots_slots_follow_the_network(small_sam):
    adapter = adapt(small_sam, "lora", orchestrate=True)
    blocks = small_sam.image_encoder.blocks
    slots = [(block.attn.qkv.q.down.mixing.slot, block.attn.qkv.v.down.mixing.slot) for block in blocks]
    assert slots == [(2 * index, 2 * index + 1) for index in range(len(blocks))]
    assert adapter.orchestrator.num_slots == 2 * len(blocks)


@pytest.mark.parametrize("method", WITH_BOTTLENECK)
def test_the_last_blocks_alone_are_adapted_where_asked(small_sam, image, trained, method):
    adapter = trained(adapt(small_sam, method, orchestrate=True, blocks=2))
    network = PromptableSam(small_sam)
    network.encode(image).sum().backward()
    own = [name for name, _ in adapter.named_parameters() if name.startswith("image_encoder.blocks.")]
    assert {int(name.split(".")[2]) for name in own} == {6, 7}
    assert adapter.orchestrator.num_slots == {"lora": 4, "adaptformer": 2}[method]
    assert all(small_sam.get_parameter(name).grad.abs().max() > 0 for name in own)
    assert adapter.orchestrator.relation.grad.abs().max() > 0


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


def test_nothing_to_train_is_an_error(small_sam):
    with pytest.raises(ValueError, match=r"'freeze' .* nothing to train"):
        adapt(small_sam, "freeze").parameter_groups(1e-3)


def test_methods_without_an_auxiliary_loss_add_nothing(small_sam, image):
    adapter = adapt(small_sam, "lora")
    predict(small_sam, image)
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
        ({"method": "prefix"}, "Unknown method 'prefix'; choose one of adaptformer, decoder_only, freeze, lora"),
        ({"method": "lora", "bottleneck": 8}, "no option 'bottleneck'; it has rank"),
        ({"method": "lora", "relation": "fixed"}, "COBOT's need orchestrate=True"),
        ({"method": "lora", "orchestrate": True, "rank": 6}, "divisible by 4"),
        ({"method": "lora", "rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"method": "lora", "rank": "4"}, "rank must be a whole number of at least 1, got '4'"),
        ({"method": "adaptformer", "bottleneck": 8.0}, r"bottleneck must be a whole number of at least 1, got 8\.0"),
        ({"method": "lora", "blocks": 0}, "blocks=0 does not fit this encoder: expected 1 to 8"),
        ({"method": "adaptformer", "blocks": 9}, "blocks=9 does not fit this encoder: expected 1 to 8"),
        ({"method": "adaptformer", "dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"method": "decoder_only", "orchestrate": True}, "'decoder_only' has none"),
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


def test_adapting_twice_is_an_error(small_sam):
    adapt(small_sam, "lora")
    with pytest.raises(ValueError, match=r"adapted already \(with 'lora'\); call remove\(\)"):
        adapt(small_sam, "adaptformer")


def test_one_config_can_name_the_options_of_several_methods():
    assert options_of("lora", rank=4, bottleneck=16) == {"rank": 4}
    assert options_of("adaptformer", rank=4, bottleneck=16) == {"bottleneck": 16}
    assert options_of("decoder_only", rank=4, bottleneck=16, blocks=2) == {}
