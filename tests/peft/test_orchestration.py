import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_cobot.networks import build_sam
from monai_cobot.peft import CrossBlockOrchestrator, adapt


def randomised(**options) -> CrossBlockOrchestrator:
    orchestrator = CrossBlockOrchestrator(num_slots=6, width=8, **options)
    with torch.no_grad():
        for parameter in orchestrator.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return orchestrator


def mixing_matrices_by_the_equations(orchestrator: CrossBlockOrchestrator) -> torch.Tensor:
    """Eq. 15-21 of the paper, written as loops over single numbers in float64."""
    slots, width = orchestrator.num_slots, orchestrator.width
    orchestrator.requires_grad_(False)
    local, communicated = orchestrator.local.double(), orchestrator.communicated.double()
    relation = orchestrator.relation.double() if orchestrator.relation_kind != "none" else torch.eye(slots).double()
    result = torch.zeros(slots, width, width, dtype=torch.float64)
    for slot in range(slots):
        layer = torch.eye(width, dtype=torch.float64)
        if orchestrator.hypercomplex == "linear":
            layer = orchestrator.linear[slot].double()
        if orchestrator.hypercomplex == "quaternion":
            r, i, j, k = orchestrator.quaternion[slot].double()
            rows = [[r, i, j, k], [-i, r, k, -j], [-j, -k, r, i], [-k, j, -i, r]]
            layer = torch.cat([torch.cat(row, dim=1) for row in rows])
        for a in range(width):
            mixed = sum(float(communicated[other, a] * relation[other, slot]) for other in range(slots))
            for b in range(width):
                result[slot, a, b] = (mixed + float(local[slot, a])) * layer[a, b]
    return result


@pytest.mark.parametrize("relation", ["learnable", "fixed", "none"])
@pytest.mark.parametrize("hypercomplex", ["quaternion", "linear", "none"])
def test_mixing_matrices_equal_a_plain_float64_loop(relation, hypercomplex):
    orchestrator = randomised(relation=relation, hypercomplex=hypercomplex)
    expected = mixing_matrices_by_the_equations(orchestrator)
    relative = (orchestrator.mixing_matrices().double() - expected).abs().max() / expected.abs().max()
    assert relative < 1e-6


def test_parameters_are_stacked_over_all_slots():
    shapes = {name: tuple(parameter.shape) for name, parameter in CrossBlockOrchestrator(24, 4).named_parameters()}
    assert shapes == {"local": (24, 4), "communicated": (24, 4), "relation": (24, 24), "quaternion": (24, 4, 1, 1)}


def test_both_coefficients_start_at_one_and_the_relation_at_the_identity():
    orchestrator = CrossBlockOrchestrator(3, 4, hypercomplex="none")
    torch.testing.assert_close(orchestrator.mixing_matrices(), 2 * torch.eye(4).expand(3, -1, -1))


def test_a_slot_hears_another_slots_coefficients_exactly_where_the_relation_is_not_zero():
    orchestrator = randomised()
    with torch.no_grad():
        orchestrator.relation[2, 4] = 0
    before = orchestrator.mixing_matrices()
    with torch.no_grad():
        orchestrator.communicated[2] += 1
    changed = (orchestrator.mixing_matrices() != before).flatten(1).any(dim=1)
    assert changed.tolist() == [True, True, True, True, False, True]


def test_local_coefficients_stay_local():
    orchestrator = randomised()
    before = orchestrator.mixing_matrices()
    with torch.no_grad():
        orchestrator.local[2] += 1
    changed = (orchestrator.mixing_matrices() != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, True, False, False, False]


def test_a_fixed_relation_is_random_kept_and_not_trained():
    orchestrator = CrossBlockOrchestrator(6, 8, relation="fixed")
    assert "relation" in orchestrator.state_dict()
    assert "relation" not in dict(orchestrator.named_parameters())
    assert not torch.equal(orchestrator.relation, torch.eye(6))


def test_without_coefficients_only_the_hypercomplex_layer_is_left():
    orchestrator = CrossBlockOrchestrator(6, 8, coefficients=False)
    assert [name for name, _ in orchestrator.named_parameters()] == ["quaternion"]
    matrices = orchestrator.mixing_matrices()
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(8).expand(6, -1, -1), atol=1e-5, rtol=0)


def test_the_layer_starts_orthogonal_or_as_the_authors_code_has_it():
    assert CrossBlockOrchestrator(6, 8, quaternion_init="uniform").quaternion[:, 0].abs().max() == 0
    assert CrossBlockOrchestrator(6, 8).quaternion[:, 0].abs().max() > 0


def test_matrices_and_mixed_weights_stay_in_float32_under_autocast():
    orchestrator = randomised()
    orchestrator.orchestrate([nn.Linear(20, orchestrator.width) for _ in range(orchestrator.num_slots)])
    orchestrator.refresh()
    matrices, (weight, bias) = orchestrator.mixing_matrices(), orchestrator.mixed(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(orchestrator.mixing_matrices(), matrices)
        orchestrator.refresh()
        assert torch.equal(orchestrator.mixed(3)[0], weight)
        assert torch.equal(orchestrator.mixed(3)[1], bias)


@pytest.mark.parametrize("bias", [True, False])
def test_the_weights_of_all_slots_are_mixed_as_each_by_its_matrix(bias):
    orchestrator = randomised()
    slots = [nn.Linear(20, orchestrator.width, bias=bias) for _ in range(orchestrator.num_slots)]
    orchestrator.orchestrate(slots)
    orchestrator.refresh()
    x = torch.randn(5, 20)
    for index, (slot, matrix) in enumerate(zip(slots, orchestrator.mixing_matrices(), strict=True)):
        torch.testing.assert_close(F.linear(x, *orchestrator.mixed(index)), slot(x) @ matrix)
    trained = [*orchestrator.parameters(), *(parameter for slot in slots for parameter in slot.parameters())]
    sum(weight.sum() + (b.sum() if bias else 0) for weight, b in map(orchestrator.mixed, range(6))).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in trained)


def test_copies_and_pickles_do_not_carry_the_mixed_weights_of_a_pass():
    orchestrator = randomised()
    orchestrator.orchestrate([nn.Linear(20, orchestrator.width) for _ in range(orchestrator.num_slots)])
    orchestrator.refresh()
    before = orchestrator.mixed(3)[0]
    with torch.no_grad():
        orchestrator.local += 1
    twins = (copy.deepcopy(orchestrator), pickle.loads(pickle.dumps(orchestrator)))
    orchestrator.refresh()
    assert not torch.equal(orchestrator.mixed(3)[0], before)
    for twin in twins:
        assert torch.equal(twin.mixed(3)[0], orchestrator.mixed(3)[0])


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", ["lora", "adaptformer"])
def test_a_pass_without_gradients_between_forward_and_backward_changes_no_gradient(method, checkpointed):
    sam = build_sam("vit_mini", image_size=64, gradient_checkpointing=checkpointed)
    adapter = adapt(sam, method, orchestrate=True, **({"dropout": 0.0} if method == "adaptformer" else {}))
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    encoder = sam.image_encoder.train()
    image = torch.rand(1, 3, 64, 64)
    gradients = []
    for between in (False, True):
        sam.zero_grad()
        loss = encoder(image).square().mean()
        if between:
            with torch.no_grad():
                encoder(image)
            with torch.inference_mode():
                encoder(image)
        loss.backward()
        gradients.append([p.grad.clone() for _, p in adapter.named_parameters() if p.grad is not None])
    assert len(gradients[0]) > 4
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("shapes", [[(20, 8)] * 5, [(20, 8)] * 5 + [(24, 8)], [(20, 4)] * 6])
def test_slots_that_are_too_few_or_of_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="COBOT over 6 slots of width 8 needs as many down projections of one shape"):
        randomised().orchestrate([nn.Linear(*shape) for shape in shapes])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6}, "divisible by 4"),
        ({"relation": "random"}, "Unknown relation 'random'; choose one of learnable, fixed, none"),
        ({"hypercomplex": "octonion"}, "Unknown hypercomplex 'octonion'"),
        ({"hypercomplex": "linear", "quaternion_init": "zero"}, "Unknown quaternion_init 'zero'"),
        ({"coefficients": False, "relation": "fixed"}, "the relation mixes coefficients, and there are none"),
        ({"coefficients": False, "hypercomplex": "none"}, "nothing to orchestrate"),
        ({"num_slots": 0}, "at least one slot"),
    ],
)
def test_what_cannot_be_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        CrossBlockOrchestrator(**{"num_slots": 6, "width": 8, **options})


def test_any_width_goes_with_a_linear_layer():
    assert CrossBlockOrchestrator(5, 6, hypercomplex="linear").mixing_matrices().shape == (5, 6, 6)
