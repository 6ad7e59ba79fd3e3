"""The loss of a training with an adapter."""

from __future__ import annotations

from torch import Tensor, nn

from .adapter import Adapter


class AdapterLoss(nn.Module):
    """The loss of the masks, plus what the method adds to it (``Adapter.auxiliary_loss``).

    Both are of the last forward pass. Where gradients are accumulated over several passes, or over processes, each pass
    is balanced for itself, and its share is weighed as the rest of its loss is.

    Args:
        loss: takes what the network predicts and what is true.
        adapter: of the network.
    """

    def __init__(self, loss: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.loss = loss
        self._adapter = adapter

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The sum, a scalar."""
        loss: Tensor = self.loss(prediction, target)
        return loss + self._adapter.auxiliary_loss()
