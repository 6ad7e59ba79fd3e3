"""Ways to run a promptable SAM's image encoder at inference, behind one function."""

from monai_cobot.networks.backends.accelerated import AcceleratedSam, accelerate
from monai_cobot.networks.backends.choice import BACKENDS, BackendChoice, BackendError, choose_backend

__all__ = ["BACKENDS", "AcceleratedSam", "BackendChoice", "BackendError", "accelerate", "choose_backend"]
