import pytest
import torch

from monai_cobot.peft.quaternion import hamilton_matrix, initial_quaternions


def hamilton_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product of two quaternions, from i^2 = j^2 = k^2 = ijk = -1."""
    (a0, a1, a2, a3), (b0, b1, b2, b3) = a.tolist(), b.tolist()
    return torch.tensor(
        [
            a0 * b0 - a1 * b1 - a2 * b2 - a3 * b3,
            a0 * b1 + a1 * b0 + a2 * b3 - a3 * b2,
            a0 * b2 - a1 * b3 + a2 * b0 + a3 * b1,
            a0 * b3 + a1 * b2 - a2 * b1 + a3 * b0,
        ],
        dtype=torch.float64,
    )


def test_a_map_of_width_four_is_a_product_of_quaternions():
    generator = torch.Generator().manual_seed(0)
    z, weight = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(z @ hamilton_matrix(weight.view(4, 1, 1)), hamilton_product(weight, z))


def test_the_blocks_stand_where_the_paper_has_them():
    r, i, j, k = (torch.full((2, 2), float(value)) for value in (1, 2, 3, 4))
    expected = torch.cat(
        [torch.cat(row, dim=1) for row in ((r, i, j, k), (-i, r, k, -j), (-j, -k, r, i), (-k, j, -i, r))]
    )
    assert torch.equal(hamilton_matrix(torch.stack((r, i, j, k))), expected)


@pytest.mark.parametrize("width", [4, 8, 16])
def test_orthogonal_initial_maps_keep_lengths(width):
    maps = hamilton_matrix(initial_quaternions(5, width, "orthogonal"))
    assert maps.shape == (5, width, width)
    torch.testing.assert_close(maps @ maps.mT, torch.eye(width).expand(5, -1, -1), atol=1e-5, rtol=0)
    assert not torch.allclose(maps[0], maps[1])


def test_uniform_initial_maps_have_no_real_part():
    components = initial_quaternions(3, 16, "uniform")
    assert torch.equal(components[:, 0], torch.zeros(3, 4, 4))
    assert 0 <= components[:, 1:].min() < 0.2 < 0.8 < components.max() < 1


def test_a_width_that_is_no_multiple_of_four_is_an_error():
    with pytest.raises(ValueError, match="divisible by 4, but the width is 6"):
        initial_quaternions(3, 6)


def test_an_unknown_initialisation_is_an_error():
    with pytest.raises(ValueError, match="'zero'; choose one of orthogonal, uniform"):
        initial_quaternions(3, 8, "zero")
