"""How good a mask on the decoder's grid can be."""

import time

import choose_size
import numpy as np
import pytest
import torch

from monai_cobot.networks import PromptableSam, build_sam


def disc(rows: int, columns: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    return np.hypot(y - rows / 2, x - columns / 2) < radius


def test_a_mask_that_is_whole_cells_comes_back_as_it_was() -> None:
    mask = torch.zeros(60, 64, dtype=torch.bool)
    mask[8:40, 16:48] = True
    assert torch.equal(choose_size.on_the_grid(mask, 64, 4), mask)


@pytest.mark.parametrize("shape", [(64, 64), (50, 64), (128, 90)])
def test_a_finer_grid_holds_a_disc_better(shape: tuple[int, int]) -> None:
    masks = disc(*shape, 8)[None]
    coarse, fine, finer = (choose_size.best_dice(masks, 64, patch) for patch in (32, 16, 4))
    assert coarse < fine < finer
    assert finer > 0.9


def test_a_slower_network_takes_longer() -> None:
    network = PromptableSam(build_sam("vit_mini", image_size=64)).eval()
    slower = PromptableSam(build_sam("vit_mini", image_size=64)).eval()
    slower.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    found = choose_size.milliseconds({"slower": slower, "faster": network}, 64)
    assert found["slower"] > found["faster"] + 10
