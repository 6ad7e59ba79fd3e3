"""Methods that ask more of a training than the others."""

from pathlib import Path

from safetensors.torch import load_file

from monai_cobot.peft import read_adapter_config
from tests.bundles.conftest import TINY, Run


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
