"""Quaternion-valued linear maps as real matrices.

A quaternion matrix Q = r + i*I + j*J + k*K of size n x n acts on row vectors of n quaternions, stored as V = 4n real
numbers (all real parts, then all I parts, all J parts, all K parts). As a real matrix that action is the V x V block
matrix that :func:`hamilton_matrix` builds from V*V/4 numbers: a quarter of a free linear map.

Source: hyper-complex layer of SAM-COBOT (Peng et al., CVPR 2024, section 3.3); the initialisation on the unit sphere
goes back to Parcollet et al., "Quaternion recurrent neural networks", ICLR 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUATERNION_INITIALISATIONS = ("orthogonal", "uniform")


def hamilton_matrix(components: Tensor) -> Tensor:
    """The real matrix of a quaternion-linear map in the row-vector convention, z' = z @ K.

    Args:
        components: (..., 4, n, n), the parts r, i, j, k of the quaternion matrix.

    Returns:
        (..., 4n, 4n): block rows by input component, block columns by output component::

            K = [[ r,  i,  j,  k],
                 [-i,  r,  k, -j],
                 [-j, -k,  r,  i],
                 [-k,  j, -i,  r]]
    """
    r, i, j, k = components.unbind(-3)
    rows = (
        torch.cat((r, i, j, k), dim=-1),
        torch.cat((-i, r, k, -j), dim=-1),
        torch.cat((-j, -k, r, i), dim=-1),
        torch.cat((-k, j, -i, r), dim=-1),
    )
    return torch.cat(rows, dim=-2)


def initial_quaternions(num_maps: int, width: int, initialisation: str = "orthogonal") -> Tensor:
    """Initial components of ``num_maps`` quaternion-linear maps over ``width`` real numbers.

    Args:
        num_maps: how many maps, L.
        width: V, the real width, divisible by 4.
        initialisation: ``"orthogonal"`` (the paper): a random quaternion matrix whose real matrix is orthogonal, so
            that a map keeps lengths; with V = 4 this is a random point on the unit sphere of quaternions.
            ``"uniform"`` (the authors' code): r = 0 and i, j, k uniform in [0, 1).

    Returns:
        (L, 4, V/4, V/4), float32.

    Raises:
        ValueError: if the width is not divisible by 4 or the initialisation is unknown.
    """
    if width % 4:
        raise ValueError(
            f"A quaternion layer needs a bottleneck width divisible by 4, but the width is {width}. "
            "Choose a width such as 4, 8 or 16, another layer with hypercomplex='linear' or 'none', or leave COBOT out "
            "with orchestrate=False."
        )
    block = width // 4
    if initialisation == "uniform":
        components = torch.rand(num_maps, 4, block, block)
        components[:, 0] = 0
        return components
    if initialisation != "orthogonal":
        raise ValueError(
            f"Unknown quaternion_init {initialisation!r}; choose one of {', '.join(QUATERNION_INITIALISATIONS)}."
        )
    # The orthogonal factor of a polar decomposition is a function of K^T K, so it stays within the quaternion matrices.
    left, _, right = torch.linalg.svd(hamilton_matrix(torch.randn(num_maps, 4, block, block, dtype=torch.float64)))
    first_block_row = (left @ right)[:, :block]  # (L, V/4, V)
    return first_block_row.reshape(num_maps, block, 4, block).transpose(1, 2).float().contiguous()
