"""What COBOT costs over the base method that it orchestrates."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.encoder import training_step_of
from benchmarks.rivals import normalised_image, our_sam
from benchmarks.timing import Row, Setting, row, time_in_turns
from monai_cobot.peft import adapt

METHODS = ("lora", "adaptformer")


def orchestration(setting: Setting) -> list[Row]:
    """With COBOT over without: a training step of the encoder, and a forward pass after ``fold()``.

    A training step is also measured at a quarter of the image size, where what COBOT adds weighs most, in more rounds.
    """
    small = replace(setting, image_size=setting.image_size // 4, repeats=4 * setting.repeats)
    return [
        each
        for method in METHODS
        for each in (_training(setting, method), _training(small, method), _inference(setting, method))
    ]


def _training(setting: Setting, method: str) -> Row:
    task = f"{method} training step, {setting.variant} {setting.image_size}"
    steps = {
        f"{method} + COBOT": training_step_of(our_sam(setting), setting, method, orchestrate=True),
        method: training_step_of(our_sam(setting), setting, method, orchestrate=False),
    }
    return row(task, time_in_turns(task, steps, setting), *steps, at_most=1.02)


def _inference(setting: Setting, method: str) -> Row:
    folded, base = our_sam(setting), our_sam(setting)
    adapt(folded, method, orchestrate=True).fold()
    adapt(base, method)
    image = normalised_image(setting)
    task = f"{method} forward after fold(), {setting.variant} {setting.image_size}"
    passes = {
        f"{method} + COBOT, folded": setting.inference(lambda: folded.image_encoder(image), setting.as_ours()),
        method: setting.inference(lambda: base.image_encoder(image), setting.as_ours()),
    }
    return row(task, time_in_turns(task, passes, setting), *passes)
