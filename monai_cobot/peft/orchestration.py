"""COBOT: orchestrating the adapters of all blocks (Peng et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .quaternion import QUATERNION_INITIALISATIONS, hamilton_matrix, initial_quaternions

RELATIONS = ("learnable", "fixed", "none")
HYPERCOMPLEX_LAYERS = ("quaternion", "linear", "none")

Mixed = list[tuple[Tensor, Tensor | None]]
"""Weight and bias of each slot."""


class CrossBlockOrchestrator(nn.Module):
    """The parameters of COBOT for all adapter slots, stacked, and the matrices M_l that they amount to.

    Slot l of L (in network order) has a bottleneck of width V. Its activation z is replaced by z' = z @ M_l with

    * Lambda^LM_l = sum_m Lambda_m S[m, l]: the communicated coefficients of all slots, mixed by the relation matrix
      (T_w = T x_3 S, Eq. 15-17);
    * M_l = diag(Lambda^LM_l + Lambda^MC_l) @ K_l: those plus the slot's local coefficients, then the slot's
      hyper-complex map K_l (Eq. 21).

    Parameters (present as the options ask for them):

    * ``local`` (L, V): Lambda^MC, the local coefficients, ones at the start;
    * ``communicated`` (L, V): Lambda, the coefficients that the slots share through S, ones at the start;
    * ``relation`` (L, L): S, the identity at the start;
    * ``quaternion`` (L, 4, V/4, V/4), or ``linear`` (L, V, V): K_l.

    With the defaults that is L * (2V + L + V*V/4) numbers: 864 over LoRA and 1,296 over AdaptFormer on ViT-B.

    Args:
        num_slots: L, the number of adapter slots.
        width: V, the bottleneck width that all slots share; divisible by 4 for quaternions.
        relation: ``"learnable"``; ``"fixed"``, a random S that is kept as it is (the paper's Table 2); ``"none"``, S
            is the identity and not trained.
        hypercomplex: ``"quaternion"``; ``"linear"``, a free V x V map that starts orthogonal (Table 3); ``"none"``,
            K_l is the identity.
        quaternion_init: ``"orthogonal"`` (the paper) or ``"uniform"`` (the authors' code), see
            :func:`~monai_cobot.peft.quaternion.initial_quaternions`.
        coefficients: ``False`` leaves both coefficient sets out and S with them, M_l = K_l (Table 1, "HL only").

    Raises:
        ValueError: for an unknown option, a width that quaternions cannot have, or options that leave nothing.
    """

    def __init__(
        self,
        num_slots: int,
        width: int,
        relation: str = "learnable",
        hypercomplex: str = "quaternion",
        quaternion_init: str = "orthogonal",
        coefficients: bool = True,
    ) -> None:
        super().__init__()
        if num_slots < 1 or width < 1:
            raise ValueError(f"COBOT needs at least one slot and a positive width, got {num_slots} slots of {width}.")
        for option, value, known in (
            ("relation", relation, RELATIONS),
            ("hypercomplex", hypercomplex, HYPERCOMPLEX_LAYERS),
            ("quaternion_init", quaternion_init, QUATERNION_INITIALISATIONS),
        ):
            if value not in known:
                raise ValueError(f"Unknown {option} {value!r}; choose one of {', '.join(known)}.")
        if not coefficients and relation != "learnable":
            raise ValueError(
                f"relation={relation!r} with coefficients=False: the relation mixes coefficients, and there are none; "
                "leave one of the two out."
            )
        if not coefficients and hypercomplex == "none":
            raise ValueError(
                "coefficients=False with hypercomplex='none' leaves nothing to orchestrate; "
                "keep one of them, or adapt without orchestrate=True."
            )
        self.num_slots = num_slots
        self.width = width
        self.relation_kind = relation
        self.hypercomplex = hypercomplex
        self.coefficients = coefficients
        self._slots: list[nn.Linear] = []  # a list: they are modules of the blocks, not of this one
        self._mixed: dict[bool, Mixed] = {}  # with gradients and without

        if coefficients:
            self.local = nn.Parameter(torch.ones(num_slots, width))
            self.communicated = nn.Parameter(torch.ones(num_slots, width))
            if relation == "learnable":
                self.relation = nn.Parameter(torch.eye(num_slots))
            elif relation == "fixed":
                # 1/sqrt(L) keeps the size of a mixture of L coefficients that of one
                self.register_buffer("relation", torch.randn(num_slots, num_slots) / num_slots**0.5)
        if hypercomplex == "quaternion":
            self.quaternion = nn.Parameter(initial_quaternions(num_slots, width, quaternion_init))
        elif hypercomplex == "linear":
            maps = torch.empty(num_slots, width, width)
            for slot_map in maps:
                nn.init.orthogonal_(slot_map)
            self.linear = nn.Parameter(maps)

    def mixing_matrices(self) -> Tensor:
        """All M_l in the row-vector convention, z' = z @ M_l.

        Returns:
            (L, V, V), in the parameters' own type also under autocast.
        """
        with torch.autocast(device_type=next(self.parameters()).device.type, enabled=False):
            if self.hypercomplex == "quaternion":
                maps = hamilton_matrix(self.quaternion)  # (L, V, V)
            elif self.hypercomplex == "linear":
                maps = self.linear
            else:
                maps = torch.eye(self.width, dtype=self.local.dtype, device=self.local.device)  # (V, V), of every slot
            if not self.coefficients:
                return maps
            mixed: Tensor = self.communicated  # (L, V)
            if self.relation_kind != "none":
                mixed = self.relation.transpose(0, 1) @ mixed
            return (mixed + self.local).unsqueeze(-1) * maps

    def orchestrate(self, slots: Sequence[nn.Linear]) -> None:
        """Name the down projections whose weights are mixed, in the order of the slots.

        Raises:
            ValueError: if they are not as many as there are slots, or not of one shape.
        """
        shapes = {(slot.weight.shape, slot.bias is None) for slot in slots}
        if len(slots) != self.num_slots or len(shapes) != 1 or slots[0].out_features != self.width:
            raise ValueError(
                f"COBOT over {self.num_slots} slots of width {self.width} needs as many down projections of one shape; "
                f"got {len(slots)} of (width, features) {sorted({tuple(slot.weight.shape) for slot in slots})}."
            )
        self._slots = list(slots)

    def refresh(self, *_: Any) -> None:
        """Mix the weights of all slots anew, W'_l = M_l^T W_l and b'_l = b_l M_l, in one batched product.

        Called once before each forward pass of the encoder (as its forward pre-hook).
        """
        # not in autocast's type: what is folded, which is done outside of it, has to be what was validated
        with torch.autocast(device_type=self._slots[0].weight.device.type, enabled=False):
            matrices = self.mixing_matrices()  # (L, V, V)
            weights = matrices.transpose(1, 2) @ torch.stack([slot.weight for slot in self._slots])  # (L, V, D)
            biases = None  # (L, V)
            if self._slots[0].bias is not None:
                biases = (torch.stack([slot.bias for slot in self._slots]).unsqueeze(1) @ matrices).squeeze(1)
        # A pass without gradients leaves alone what a pass before it, whose backward is yet to come, was computed with:
        # gradient checkpointing will ask for it again. A pass with gradients is followed by other weights.
        with_gradients = torch.is_grad_enabled()
        if with_gradients:
            self._mixed.pop(False, None)
        self._mixed[with_gradients] = _by_slot(weights, biases)

    def mixed(self, slot: int) -> tuple[Tensor, Tensor | None]:
        """Mixed weight (V, D) and bias (V,) of one slot, as of the last :meth:`refresh`, in the slots' own type."""
        with_gradients = torch.is_grad_enabled()
        if with_gradients not in self._mixed:
            self.refresh()
        return self._mixed[with_gradients][slot]

    def __getstate__(self) -> dict[str, Any]:
        # The mixed weights belong to one forward pass and its graph: a copy or a pickle starts without them.
        return {**self.__dict__, "_mixed": {}}


class SlotMixing:
    """One slot's view of the orchestrator; a plain object, so that the module tree holds the orchestrator once."""

    def __init__(self, orchestrator: CrossBlockOrchestrator, slot: int) -> None:
        self.orchestrator = orchestrator
        self.slot = slot

    def __call__(self) -> tuple[Tensor, Tensor | None]:
        """The slot's mixed weight (V, D) and bias (V,)."""
        return self.orchestrator.mixed(self.slot)


def _by_slot(weights: Tensor, biases: Tensor | None) -> Mixed:
    """Weights (L, V, D) and biases (L, V) slot by slot."""
    each_bias = [None] * len(weights) if biases is None else biases.unbind()
    return list(zip(weights.unbind(), each_bias, strict=True))
