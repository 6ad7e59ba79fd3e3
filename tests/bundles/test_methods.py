"""Every method through the bundle: by its name alone, and trained where it asks more of a training than others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from monai_cobot.networks import build_sam
from monai_cobot.peft import METHODS, is_orchestrated, load_adapter, read_adapter_config
from tests.bundles.conftest import TINY, Run


@pytest.fixture
def training(configs: Path, phantom: Path, tmp_path: Path) -> Any:
    """Makes a training that has not begun."""

    def prepared(**options: Any) -> ConfigWorkflow:
        small = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), **TINY}
        workflow = ConfigWorkflow(
            str(configs / "train.json"), logging_file=False, workflow_type="train", **small, **options
        )
        workflow.initialize()
        return workflow

    return prepared


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_name_of_a_method_is_all_that_a_configuration_needs(training: Any, method: str) -> None:
    adapter = training(method=method).parser.get_parsed_content("adapter")
    assert adapter.method == METHODS[method]()
    assert (adapter.orchestration is not None) == is_orchestrated(method)


@pytest.mark.parametrize(
    ("factors", "rates"),
    [({}, [1e-5, 1e-5, 1e-3]), ({"orchestration_factor": 3, "decoder_factor": 0.1}, [1e-5, 1e-6, 3e-5])],
)
def test_cobot_and_the_decoder_learn_at_rates_of_their_own(training: Any, factors: dict, rates: list[float]) -> None:
    groups = training(learning_rate=1e-5, **factors).parser.get_parsed_content("optimizer").param_groups
    assert [group["name"] for group in groups] == ["adapter", "decoder", "orchestration"]
    assert [group["lr"] for group in groups] == pytest.approx(rates)


@pytest.mark.parametrize("method", ["lst", "sam_adapter", "vpt"])
def test_methods_with_further_channels_or_tokens_are_trained_and_loaded(
    training: Any, tmp_path: Path, method: str
) -> None:
    workflow = training(method=method, epochs=1, slices_per_epoch=12, batch_size=4, val_at_start=False)
    adapter = workflow.parser.get_parsed_content("adapter")
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    workflow.run()
    workflow.finalize()
    in_encoder = [name for name in before if name.startswith("image_encoder.")]
    assert in_encoder
    assert not [name for name in in_encoder if torch.equal(adapter.state_dict()[name], before[name])]
    loaded = load_adapter(build_sam("vit_mini", image_size=64), tmp_path / "last")
    assert loaded.method == METHODS[method]()
    assert all(torch.equal(tensor, adapter.state_dict()[name].cpu()) for name, tensor in loaded.state_dict().items())


def test_a_methods_own_loss_is_trained_with_the_masks(run: Run, phantom: Path, tmp_path: Path) -> None:
    run(
        "train",
        "train",
        dataset_dir=str(phantom),
        output_dir=str(tmp_path),
        epochs=1,
        slices_per_epoch=8,
        batch_size=4,
        method="conv_lora",
        method_options={"experts": 3, "multiply_by_gate": False},
        rank=4,
        orchestrate=False,
        decoder="lora",
        **TINY,
    )
    config = read_adapter_config(tmp_path / "last")
    assert config.method_options["experts"] == 3
    assert config.method_options["rank"] == 4
    weights = load_file(tmp_path / "last" / "adapter_model.safetensors")
    gates = [tensor for name, tensor in weights.items() if name.endswith("experts.gate.weight")]
    assert len(gates) == 8
    # they start at zero, and so they learn from balancing alone
    assert all(gate.shape == (4, 3) and gate.abs().max() > 0 for gate in gates)
