"""Prompts as tokens, against segment_anything's own prompt encoder."""

import pytest
import torch

from monai_cobot.networks import build_sam
from monai_cobot.networks.prompts import embed_points


def test_points_become_the_tokens_of_segment_anything() -> None:
    encoder = build_sam("vit_mini").prompt_encoder
    points = torch.tensor([[[0.0, 0.0], [100.0, 31.5], [255.0, 7.0]], [[3.0, 250.0], [0.0, 0.0], [128.0, 64.0]]])
    labels = torch.tensor([[1, 0, 1], [0, -1, 1]])
    expected = encoder._embed_points(points, labels, pad=False)
    torch.testing.assert_close(embed_points(encoder, points, labels), expected, rtol=0, atol=1e-5)


def test_points_without_a_box_are_padded_with_one_that_is_no_point() -> None:
    encoder = build_sam("vit_mini").prompt_encoder
    points, labels = torch.tensor([[[12.0, 40.0]]]), torch.tensor([[1]])
    padded = torch.cat((points, torch.zeros(1, 1, 2)), dim=1), torch.tensor([[1, -1]])
    expected = encoder._embed_points(points, labels, pad=True)
    torch.testing.assert_close(embed_points(encoder, *padded), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf")])
def test_where_a_point_that_is_none_lies_changes_nothing(coordinate: float) -> None:
    encoder = build_sam("vit_mini").prompt_encoder
    points, labels = torch.tensor([[[12.0, 40.0], [coordinate, coordinate]]]), torch.tensor([[1, -1]])
    expected = encoder._embed_points(points.nan_to_num(0, 0, 0), labels, pad=False)
    torch.testing.assert_close(embed_points(encoder, points, labels), expected, rtol=0, atol=1e-5)


def test_points_of_several_images_and_objects_are_embedded_one_by_one() -> None:
    encoder = build_sam("vit_mini").prompt_encoder
    points = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)) * 255
    labels = torch.tensor([1, 0, -1, 1]).expand(2, 3, 4)
    tokens = embed_points(encoder, points, labels)
    assert tokens.shape == (2, 3, 4, 128)
    torch.testing.assert_close(tokens[1, 2], embed_points(encoder, points[1, 2], labels[1, 2]))
