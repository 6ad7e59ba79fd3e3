"""One contract over the registry: what every method must do, alone, with COBOT, and with its other options."""

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monai_cobot.networks import VARIANTS, PromptableSam, frozen_depth, set_gradient_checkpointing
from monai_cobot.networks.sam import _assemble
from monai_cobot.peft import (
    METHODS,
    AdaptedModule,
    Adapter,
    adapt,
    is_orchestrated,
    load_adapter,
    options_of,
    save_adapter,
    width_option,
)


class Case(NamedTuple):
    """A method as it is used."""

    method: str
    options: dict[str, Any]

    def adapt(self, sam: nn.Module, **more: Any) -> Adapter:
        """Put the method into a SAM."""
        return adapt(sam, self.method, **(self.options | more))

    def __repr__(self) -> str:
        return "-".join([self.method, *(f"{name}={value}" for name, value in self.options.items())])


PLAIN = [Case(method, {}) for method in sorted(METHODS)]
ORCHESTRATED = [
    Case("adaptformer", {"orchestrate": True}),
    Case("conv_lora", {"orchestrate": True, "rank": 4, "alpha": 4.0}),
    Case("houlsby", {"orchestrate": True}),
    Case("lora", {"orchestrate": True}),
    Case("sam_adapter", {"orchestrate": True}),
]
VARIED = [
    Case("conv_lora", {"multiply_by_gate": False, "experts": 3}),
    Case("sam_parser", {"patch_embed": True, "linears": True}),
    Case("vpt", {"deep": False, "prompts": 7}),
]
CASES = PLAIN + ORCHESTRATED + VARIED
# what a fresh adapter computes is what SAM computes to the last bit, but for these
CHANGES_AT_THE_START = {"vpt": "its prompts take part in every softmax"}
ROUNDS_AT_THE_START = {
    "lst": "the map lies otherwise in memory, by which convolutions round",
    "sam_adapter": "the map lies otherwise in memory, by which convolutions round",
}
NOT_MERGEABLE = {
    "adaptformer": "ReLU",
    "conv_lora": "depends on the tokens around",
    "houlsby": "GELU",
    "lst": "a network of its own",
    "sam_adapter": "depend on the image",
    "vpt": "further tokens",
}
# methods that can be kept to the last blocks
WITH_BLOCKS = [Case(method, {"blocks": 1}) for method in sorted(METHODS) if "blocks" in METHODS[method]().options()] + [
    Case("vpt", {"blocks": 2, "deep": False}),
    Case("lora", {"blocks": 1, "orchestrate": True}),
]

all_cases = pytest.mark.parametrize("case", CASES, ids=repr)
encoder_cases = pytest.mark.parametrize(
    "case", [case for case in CASES if case.method not in ("freeze", "decoder_only")], ids=repr
)
trainable_cases = pytest.mark.parametrize("case", [case for case in CASES if case.method != "freeze"], ids=repr)

BOXES = torch.tensor([[[4.0, 6.0, 30.0, 25.0], [1.0, 2.0, 20.0, 23.0]], [[5.0, 5.0, 31.0, 26.0], [0.0, 0.0, 9.0, 8.0]]])


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 1, 27, 33, generator=torch.Generator().manual_seed(2))


def predict(sam: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Masks of two boxes an image."""
    return PromptableSam(sam)(image, BOXES[: len(image)])


@pytest.fixture(scope="module")
def vit_b() -> nn.Module:
    """The official size, without numbers."""
    with torch.device("meta"):
        return _assemble(VARIANTS["vit_b"], 1024)


D, N, C = 768, 12, 256
LADDER = N * (D * 24 + 24 + 12 * 24**2 + 13 * 24) + 8 * 2 * 27 * 24 + 4 * 2 * 127 * 24 + N - 1 + 24 * D + D
BLOCKS = N * (12 * D**2 + 13 * D) + (8 * 2 * 27 + 4 * 2 * 127) * 64


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        # the papers' counts
        ("lora", {"rank": 4}, 147_456),
        ("lora", {"rank": 4, "orchestrate": True}, 148_320),
        ("adaptformer", {"bottleneck": 16}, 322_752),
        ("adaptformer", {"bottleneck": 16, "orchestrate": True}, 324_048),
        ("sam_parser", {}, 512),
        ("sam_parser", {"patch_embed": True}, 1_280),
        ("conv_lora", {"rank": 3, "experts": 8}, 119_232),
        # the formulas of the docstrings
        ("sam_parser", {"linears": True}, 512 + 4 * N * D),
        ("conv_lora", {"rank": 5, "experts": 3, "blocks": 2}, 2 * (4 * D * 5 + 2 * 5 * 3 + 3 * (9 * 25 + 5))),
        ("conv_lora", {"rank": 4, "orchestrate": True}, N * (16 * D + 64 + 8 * (9 * 16 + 4)) + N * (4 + 4 + N + 4)),
        ("bitfit", {}, 11 * N * D + D + 2 * C),
        ("bitfit", {"blocks": 2}, 11 * 2 * D + 2 * C),
        ("ssf", {}, 2 * 102_656),
        ("ssf", {"blocks": 2}, 2 * (11 * 2 * D + 2 * C)),
        ("houlsby", {"bottleneck": 8}, 313_536),
        ("houlsby", {"bottleneck": 12, "blocks": 3}, 2 * 3 * (2 * D * 12 + D + 12)),
        ("houlsby", {"bottleneck": 8, "orchestrate": True}, 313_536 + 24 * (8 + 8 + 24 + 16)),
        ("sam_adapter", {}, 63_312),
        ("sam_adapter", {"bottleneck": 8}, 3 * 256 * 8 + 2 * D * 8 + D + 2 * 8 + N * (64 + 8)),
        ("sam_adapter", {"bottleneck": 8, "orchestrate": True}, 20_080 + N * (8 + 8 + N + 16)),
        ("vpt", {}, 92_160),
        ("vpt", {"prompts": 3, "blocks": 5}, 5 * 3 * D),
        ("vpt", {"deep": False}, 7_680),
        ("lst", {"width": 24}, LADDER),
        ("lst", {}, 290_379),
        ("full", {}, 89_670_912),
        ("full", {}, 64**2 * D + 3 * 16**2 * D + D + BLOCKS + D * C + 9 * C**2 + 4 * C),
        ("decoder_only", {}, 0),
        ("decoder_only", {"decoder": "lora"}, 0),
        ("freeze", {}, 0),
        # of the last N blocks: 4 N D r, and COBOT over 2 N or N slots
        ("lora", {"rank": 4, "blocks": 3}, 36_864),
        ("lora", {"rank": 4, "blocks": 3, "orchestrate": True}, 36_864 + 6 * (4 + 4 + 6 + 4)),
        ("adaptformer", {"bottleneck": 16, "blocks": 1}, 26_896),
        ("adaptformer", {"bottleneck": 16, "blocks": 1, "orchestrate": True}, 26_896 + 1 * (16 + 16 + 1 + 64)),
    ],
)
def test_trained_parameters_on_vit_b_are_those_of_the_formula(vit_b, monkeypatch, method, options, expected):
    monkeypatch.setattr("monai_cobot.peft.adapter.base_weights_sha256", lambda sam: "of no numbers")
    adapter = adapt(vit_b, method, **options)
    counts = adapter.count_parameters()
    trained = sum(parameter.numel() for parameter in vit_b.parameters() if parameter.requires_grad)
    adapter.remove()
    decoder = {"lora": 83_968, "full": 4_058_340}[options.get("decoder", "full")]
    assert counts == {"encoder": expected, "decoder": 0 if method == "freeze" else decoder}
    assert trained == sum(counts.values())


@all_cases
def test_a_fresh_adapter_changes_nothing(tiny_sam, image, case):
    with torch.no_grad():  # attention takes another kernel where a gradient is wanted
        before = predict(tiny_sam, image)
        case.adapt(tiny_sam)
        after = predict(tiny_sam, image)
    if case.method in CHANGES_AT_THE_START:
        assert not torch.allclose(after, before)
    elif case.method in ROUNDS_AT_THE_START:
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(after, before)


@all_cases
def test_training_changes_what_is_computed(tiny_sam, image, trained, case):
    with torch.no_grad():
        before = PromptableSam(tiny_sam).encode(image)
        trained(case.adapt(tiny_sam))
        after = PromptableSam(tiny_sam).encode(image)
    assert torch.allclose(before, after, rtol=1e-2) == (case.method in ("freeze", "decoder_only"))


@all_cases
def test_sams_state_dict_keeps_its_keys(tiny_sam, case):
    keys = set(tiny_sam.state_dict())
    adapter = case.adapt(tiny_sam)
    assert keys <= set(tiny_sam.state_dict())
    assert set(tiny_sam.state_dict()) - keys <= set(adapter.state_dict())


@trainable_cases
def test_gradients_reach_all_of_the_adapter_and_the_decoder_and_nothing_else(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam))
    network = PromptableSam(tiny_sam).train()
    logits, quality = network.decode(network.encode(image), BOXES, image.shape[-2:])
    (logits.sum() + quality.sum() + adapter.auxiliary_loss()).backward()
    own = {name for name, _ in adapter.named_parameters()}
    with_gradient = {name for name, parameter in tiny_sam.named_parameters() if parameter.grad is not None}
    # the decoder's three other mask tokens answer only where several masks are asked for
    unused = {name for name in own if "hypernetworks_mlps" in name and name.split(".")[2] != "0"}
    assert with_gradient == own - unused
    still = {name for name in own - unused if tiny_sam.get_parameter(name).grad.abs().max() == 0}
    # of Conv-LoRA's experts, some are chosen by no window
    assert not [name for name in still if name.startswith("image_encoder.") and ".convolutions." not in name]


@trainable_cases
def test_gradients_under_checkpointing_are_those_without(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam, **options_of(case.method, dropout=0.0)))
    gradients = []
    for enabled in (False, True):
        set_gradient_checkpointing(tiny_sam, enabled)
        tiny_sam.train().zero_grad()
        torch.manual_seed(0)  # Conv-LoRA's gate is noisy
        (predict(tiny_sam, image).square().sum() + 100 * adapter.auxiliary_loss()).backward()
        gradients.append({name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


@encoder_cases
def test_two_passes_before_one_backward_pass_give_the_sum_of_their_gradients(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam, **options_of(case.method, dropout=0.0)))
    tiny_sam.eval()
    set_gradient_checkpointing(tiny_sam, True)
    tiny_sam.image_encoder.train()
    for module in tiny_sam.image_encoder.modules():
        module.training = module is tiny_sam.image_encoder  # recomputing, without noise
    gradients = []
    for together in (False, True):
        tiny_sam.zero_grad()
        losses = [predict(tiny_sam, one[None]).square().sum() for one in image] if together else []
        for loss in losses or (predict(tiny_sam, one[None]).square().sum() for one in image):
            loss.backward()
        gradients.append({name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@encoder_cases
def test_a_batch_of_images_of_any_size_equals_the_images_one_by_one(tiny_sam, image, trained, case):
    trained(case.adapt(tiny_sam))
    together = predict(tiny_sam, image)
    assert together.shape == (2, 2, 27, 33)
    for index in range(2):
        alone = PromptableSam(tiny_sam)(image[index : index + 1], BOXES[index : index + 1])
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


@encoder_cases
def test_the_encoder_can_stop_and_go_on_at_any_depth(tiny_sam, image, trained, case):
    trained(case.adapt(tiny_sam))
    network = PromptableSam(tiny_sam)
    with torch.no_grad():
        expected = network.encode(image)
        for depth in range(5):
            assert torch.equal(network.encode_rest(network.encode_frozen(image, depth)), expected)


@trainable_cases
def test_what_is_in_front_of_the_first_trained_weight_is_what_sam_computes(tiny_sam, image, trained, case):
    network = PromptableSam(tiny_sam)
    before = [network.encode_frozen(image, depth).values for depth in range(5)]
    trained(case.adapt(tiny_sam))
    depth = frozen_depth(tiny_sam)
    assert depth == {"decoder_only": 4, "sam_parser": 0 if case.options else 3}.get(case.method, 0)
    if depth > 0:
        assert torch.equal(network.encode_frozen(image, depth).values, before[depth])
    if depth < 4:
        assert not torch.equal(network.encode_frozen(image, depth + 1).values, before[depth + 1])


@pytest.mark.parametrize("case", WITH_BLOCKS, ids=repr)
def test_the_last_blocks_alone_are_adapted_where_asked(tiny_sam, image, trained, case):
    network = PromptableSam(tiny_sam)
    depth = 3 - case.options["blocks"]
    frozen = network.encode_frozen(image, depth).values
    before = network.encode(image)
    adapter = trained(case.adapt(tiny_sam))
    assert frozen_depth(tiny_sam) == depth
    assert torch.equal(network.encode_frozen(image, depth).values, frozen)
    assert not torch.equal(network.encode(image), before)
    network.train().encode(image).square().sum().backward()
    own = [name for name, _ in adapter.named_parameters() if name.startswith("image_encoder.")]
    assert all(tiny_sam.get_parameter(name).grad is not None for name in own)


@trainable_cases
def test_removing_gives_back_the_sam_as_it_was(tiny_sam, image, trained, case):
    before = predict(tiny_sam, image)
    state = {name: tensor.clone() for name, tensor in tiny_sam.state_dict().items()}
    modules = [(name, type(module)) for name, module in tiny_sam.named_modules()]
    trained(case.adapt(tiny_sam)).remove()
    assert torch.equal(predict(tiny_sam, image), before)
    assert tiny_sam.state_dict().keys() == state.keys()
    assert all(torch.equal(tiny_sam.state_dict()[name], tensor) for name, tensor in state.items())
    assert [(name, type(module)) for name, module in tiny_sam.named_modules()] == modules
    assert all(parameter.requires_grad for parameter in tiny_sam.parameters())
    case.adapt(tiny_sam)


# the others that are mergeable train SAM's own weights, or nothing: there is nothing to merge
@pytest.mark.parametrize("case", [case for case in CASES if case.method in ("lora", "sam_parser", "ssf")], ids=repr)
def test_merging_keeps_the_output_and_unmerging_the_weights(tiny_sam, image, trained, case):
    untouched = {name: tensor.clone() for name, tensor in tiny_sam.state_dict().items()}
    adapter = trained(case.adapt(tiny_sam))
    before = predict(tiny_sam, image)
    state = {name: tensor.clone() for name, tensor in tiny_sam.state_dict().items()}
    adapter.merge()
    adapter.merge()
    torch.testing.assert_close(predict(tiny_sam, image), before, rtol=1e-4, atol=1e-4)
    adapter.unmerge()
    assert all(torch.equal(tiny_sam.state_dict()[name], tensor) for name, tensor in state.items())
    adapter.merge()
    assert not all(torch.equal(tiny_sam.state_dict()[name], tensor) for name, tensor in state.items())
    adapter.remove()
    assert all(torch.equal(tiny_sam.state_dict()[name], tensor) for name, tensor in untouched.items())


@all_cases
def test_what_is_prepared_for_inference_computes_the_same_with_all_merged_that_can_be(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam, decoder="lora"))
    before = predict(tiny_sam, image)
    adapter.prepare_for_inference()
    torch.testing.assert_close(predict(tiny_sam, image), before, rtol=1e-4, atol=1e-4)
    assert adapter.orchestration is None
    merged = {name: module.merged for name, module in tiny_sam.named_modules() if isinstance(module, AdaptedModule)}
    assert {name for name, is_merged in merged.items() if not is_merged} == {
        name for name in merged if name.startswith("image_encoder.") and case.method in NOT_MERGEABLE
    }
    adapter.load_state_dict(adapter.state_dict())
    torch.testing.assert_close(predict(tiny_sam, image), before, rtol=1e-4, atol=1e-4)
    if any(merged.values()):
        adapter.unmerge()
    assert not any(module.merged for module in tiny_sam.modules() if isinstance(module, AdaptedModule))


@pytest.mark.parametrize("case", [case for case in CASES if case.method in NOT_MERGEABLE], ids=repr)
@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_what_cannot_be_merged_says_why_and_changes_nothing(tiny_sam, image, trained, case, decoder):
    adapter = trained(case.adapt(tiny_sam, decoder=decoder))
    before = predict(tiny_sam, image)
    with pytest.raises(TypeError, match=NOT_MERGEABLE[case.method]):
        adapter.merge()
    assert torch.equal(predict(tiny_sam, image), before)


@all_cases
def test_a_saved_adapter_loads_to_the_same_output(tiny_sam, image, trained, case, tmp_path):
    twin = copy.deepcopy(tiny_sam)
    torch.manual_seed(0)
    save_adapter(trained(case.adapt(tiny_sam, decoder="lora")), tmp_path / "adapter")
    torch.manual_seed(1)
    adapter = load_adapter(twin, tmp_path / "adapter")
    torch.testing.assert_close(predict(twin, image), predict(tiny_sam, image), rtol=1e-5, atol=1e-5)
    assert (adapter.method.name, adapter.orchestration is not None) == (case.method, "orchestrate" in case.options)


@pytest.mark.parametrize("classes", [None, 7])
# freeze trains nothing, so that there is no task in its file; full trains all of SAM's 90 million weights
@pytest.mark.parametrize(
    "case", [case for case in PLAIN + ORCHESTRATED if case.method not in ("full", "freeze")], ids=repr
)
def test_a_whole_task_on_vit_b_fits_into_two_megabytes(vit_b, monkeypatch, case, classes):
    monkeypatch.setattr("monai_cobot.peft.adapter.base_weights_sha256", lambda sam: "of no numbers")
    adapter = case.adapt(vit_b, decoder="lora", classes=classes)
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in adapter.state_dict().items()}
    adapter.remove()
    assert len(safetensors.torch.save(state)) < 2e6


@all_cases
def test_copies_and_pickles_compute_the_same_and_live_on_their_own(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam))
    predict(tiny_sam.train(), image)
    tiny_sam.eval()
    before = predict(tiny_sam, image)
    for twin in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert torch.equal(predict(twin.sam, image), before)
        trained(twin).fold()
        twin.remove()
    assert torch.equal(predict(tiny_sam, image), before)


@pytest.mark.parametrize("case", ORCHESTRATED, ids=repr)
def test_folding_leaves_the_plain_base_method_with_the_same_output(tiny_sam, image, trained, case):
    plain = set(case.adapt(copy.deepcopy(tiny_sam), orchestrate=False).state_dict())
    adapter = trained(case.adapt(tiny_sam))
    before = predict(tiny_sam, image)
    adapter.fold()
    torch.testing.assert_close(predict(tiny_sam, image), before, rtol=1e-4, atol=1e-5)
    assert set(adapter.state_dict()) == plain
    assert adapter.orchestrator is None
    assert adapter.orchestration is None


class Operators(TorchDispatchMode):
    """Notes what is computed, down to the operators and the shapes of what they take."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen.append((str(operator), [tuple(x.shape) for x in args if isinstance(x, torch.Tensor)]))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", ORCHESTRATED, ids=repr)
def test_what_is_computed_after_folding_is_what_the_base_method_computes(tiny_sam, image, trained, case):
    plain = copy.deepcopy(tiny_sam)
    base = case.adapt(plain, orchestrate=False)
    adapter = trained(case.adapt(tiny_sam))
    adapter.fold()
    base.load_state_dict(adapter.state_dict())  # what a gate lets through depends on its weights
    computed = []
    for sam in (plain.eval(), tiny_sam.eval()):
        with torch.no_grad(), Operators() as operators:
            sam.image_encoder(torch.ones(1, 3, sam.image_encoder.img_size, sam.image_encoder.img_size))
        computed.append(operators.seen)
    assert computed[0] == computed[1]


@encoder_cases
def test_bfloat16_autocast_trains_float32_parameters(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam, **options_of(case.method, dropout=0.0)))
    noisy = case.method == "conv_lora"  # its gate chooses otherwise where a little is added in training
    exact = predict(tiny_sam.train(not noisy), image)
    with torch.autocast("cpu", torch.bfloat16):
        logits = predict(tiny_sam, image)
        assert (logits.float() - exact).norm() < 0.05 * exact.norm()
        logits = predict(tiny_sam.train(), image)
        loss = logits.float().square().sum() + adapter.auxiliary_loss()
    loss.backward()
    gradients = [parameter.grad for _, parameter in adapter.named_parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in gradients)


@encoder_cases
def test_half_precision_works_before_and_after_adapting(tiny_sam, image, trained, case):
    half = copy.deepcopy(tiny_sam).to(torch.bfloat16)
    adapter = trained(case.adapt(tiny_sam, decoder="lora"))
    exact = predict(tiny_sam, image)
    case.adapt(half, decoder="lora").load_state_dict(adapter.state_dict())
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    for sam in (half, tiny_sam.to(torch.bfloat16)):
        assert (predict(sam, image) - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("case", ORCHESTRATED, ids=repr)
def test_cobots_slots_follow_the_network_and_all_learn(tiny_sam, image, trained, case):
    adapter = trained(case.adapt(tiny_sam))
    slots = [module.mixing.slot for module in tiny_sam.modules() if getattr(module, "mixing", None) is not None]
    assert slots == list(range(adapter.orchestrator.num_slots))
    assert len(slots) == {"lora": 6, "houlsby": 6}.get(case.method, 3)
    predict(tiny_sam, image).square().sum().backward()
    assert (adapter.orchestrator.relation.grad.abs() > 0).all()


def test_cobot_goes_by_default_over_what_quaternions_fit():
    by_default = {method for method in METHODS if is_orchestrated(method)}
    assert by_default == {case.method for case in ORCHESTRATED} - {"conv_lora"}  # 3 wide, as in its paper
    assert width_option("conv_lora") == "rank"


OTHER_VALUES = {
    "alpha": 16.0,
    "blocks": 2,
    "bottleneck": 12,
    "deep": False,
    "dropout": 0.5,
    "experts": 3,
    "linears": True,
    "mask_ratio": 0.6,
    "multiply_by_gate": False,
    "patch_embed": True,
    "prompts": 5,
    "rank": 7,
    "scale": 0.5,
    "width": 12,
}


@pytest.mark.parametrize(
    ("method", "option"), [(method, option) for method in sorted(METHODS) for option in METHODS[method]().options()]
)
def test_every_option_of_a_method_makes_a_difference(tiny, image, trained, method, option):
    found = []
    for options in ({}, {option: OTHER_VALUES[option]}):
        sam = copy.deepcopy(tiny)
        torch.manual_seed(0)  # of initial values, dropout and the noise of gates
        adapter = trained(adapt(sam, method, **options))
        found.append((adapter.count_parameters()["encoder"], PromptableSam(sam).train().encode(image)))
    (count, embedding), (other_count, other_embedding) = found
    assert count != other_count or not torch.equal(embedding, other_embedding)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {case.method for case in ORCHESTRATED}))
def test_cobot_over_a_method_without_a_bottleneck_is_an_error(tiny_sam, method):
    with pytest.raises(ValueError, match=f"'{method}' has none"):
        adapt(tiny_sam, method, orchestrate=True)
