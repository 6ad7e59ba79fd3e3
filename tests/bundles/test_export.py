import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export, verify_net_in_out
from monai.data import load_net_with_metadata

from monai_cobot.networks import PromptableSam
from tests.bundles.conftest import Run

OUTPUT = "_meta_#network_data_format#outputs#pred"


@pytest.fixture(scope="module")
def saved(run: Run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PromptableSam, Path]:
    """The network of the trained adapter, and the file that it was saved to."""
    path = tmp_path_factory.mktemp("network") / "model.pt"
    workflow = run("inference", run_id="save_network", adapter_dir=str(trained / "best"), network_file=str(path))
    return workflow.network_def, path


def test_the_network_takes_and_gives_what_the_metadata_says(configs: Path) -> None:
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out("network_def", device="cpu", **files)
    with pytest.raises(ValueError, match="channel number"):
        verify_net_in_out("network_def", device="cpu", **files, **{f"{OUTPUT}#num_channels": 2})


def test_an_exported_network_gives_the_networks_own_output(
    saved: tuple[PromptableSam, Path], trained: Path, configs: Path, tmp_path: Path
) -> None:
    network, checkpoint = saved
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(checkpoint),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        use_trace=True,
        adapter_dir=str(trained / "best"),
    )
    exported, metadata, extra = load_net_with_metadata(str(tmp_path / "model.ts"), more_extra_files=("inference.json",))
    image = torch.rand(1, 1, 256, 256)
    with torch.no_grad():
        assert torch.allclose(exported(image), network.eval()(image), atol=1e-4)
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 1
    assert "network_def" in json.loads(extra["inference.json"])


def test_a_traced_network_takes_boxes_too(saved: tuple[PromptableSam, Path]) -> None:
    network = saved[0].eval()
    example = torch.rand(1, 1, 256, 256), torch.tensor([[40.0, 60.0, 200.0, 180.0]])
    traced = torch.jit.trace(network, example)
    image, boxes = torch.rand(1, 1, 256, 256), torch.tensor([[100.0, 20.0, 140.0, 90.0]])
    with torch.no_grad():
        assert torch.allclose(traced(image, boxes), network(image, boxes), atol=1e-4)
        assert not torch.allclose(traced(image, boxes), traced(image, example[1]), atol=1e-2)
