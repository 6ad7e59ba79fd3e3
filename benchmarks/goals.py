"""What this project asks of itself, on two cores of a CPU; elsewhere, figures are only recorded."""

from __future__ import annotations

from benchmarks.timing import Setting

_GOALS = {
    # of ViT-B at 1024 pixels; stock in float32 over ours in either precision
    "float32": {"best forward": 2.6, "eager forward": 1.9, "training step": 1.5},
    "bfloat16": {"best forward": 8.0, "eager forward": 6.0, "training step": 5.0},
}


def goal(setting: Setting, name: str) -> float | None:
    """The ratio to segment_anything that is asked for; None in another setting."""
    if (setting.variant, setting.image_size, setting.device.type) != ("vit_b", 1024, "cpu"):
        return None
    return _GOALS[setting.precision][name]
