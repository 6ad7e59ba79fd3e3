"""The official size, whole: a file of its own, since it takes a minute."""

import warnings

import torch

from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import adapt, load_adapter, save_adapter


def test_a_vit_b_at_1024_from_an_official_checkpoint_trains_two_steps_and_reloads(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = build_sam("vit_b")
    torch.save(stock.state_dict(), tmp_path / "sam_vit_b.pth")
    del stock
    sam = build_sam("vit_b", tmp_path / "sam_vit_b.pth")
    adapter = adapt(sam, "lora", orchestrate=True, blocks=4)  # the backward pass ends there
    optimizer = torch.optim.Adam(adapter.parameter_groups(1e-4))
    network = PromptableSam(sam).train()
    image = torch.rand(1, 1, 1024, 1024, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[200.0, 300.0, 700.0, 800.0]])
    losses = []
    for _ in range(2):
        loss = network(image, box).sigmoid().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] != losses[0]
    network.eval()
    with torch.no_grad():
        expected = network(image, box)
        save_adapter(adapter, tmp_path / "adapter")
        adapter.remove()
        load_adapter(sam, tmp_path / "adapter")
        assert torch.equal(network(image, box), expected)
