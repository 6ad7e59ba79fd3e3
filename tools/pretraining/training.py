"""The training itself: steps that depend on the seed and their number alone, checkpoints, exports, a log."""

import json
import math
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from monai_cobot.files import write_atomically
from monai_cobot.handlers import place_of_process
from monai_cobot.transforms import inscribed_ellipse
from pretraining.losses import dice_score, mask_loss
from pretraining.network import ResizableSam
from pretraining.prompts import Targets, choose_targets, correcting_clicks, first_clicks, jitter_boxes
from pretraining.scenes import ALL_LEVELS, Difficulty, generate

PROMPTS = 8
"""Objects asked for in an image."""

WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 200
DECAY_FROM = 0.5
"""Part of the steps after which the learning rate falls, from constant to a hundredth along a cosine."""

BRIGHT_STEPS, MIXED_STEPS = 350, 900
"""Until the first step all objects are brighter than what they lie on, from the second on half of them.

Whether a pixel belongs to the object depends on its brightness and the object's together. As long as bright and dark
objects are as frequent, neither has a gradient of its own, and training stays at the ellipse within the box.
"""

EASY_STEPS, HARD_STEPS = 500, 3000
"""Until the first step images are the easiest, from the second on of all levels."""

AVERAGE = 0.999
"""Share of the averaged weights that a step keeps."""

LOG_EVERY = 60.0
SAVE_EVERY = 300.0
"""Seconds between lines of the log, and between checkpoints with exports and scores on held-out images."""

HELD_OUT = 64
"""Images, from seeds that training never reaches, on which it is scored."""

PATIENCE, LEAST_GAIN = 6, 0.001
"""The last stage ends early where so many scores have not gained so much over the best one before them."""


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        sizes: rows and columns of the images; steps take them in turn, so that the network keeps all of them.
        batch: images of the largest size a step, in each process; of smaller ones, as many as have the same pixels.
        steps: how many.
    """

    sizes: tuple[int, ...]
    batch: int
    steps: int

    @property
    def largest(self) -> int:
        """The largest size."""
        return max(self.sizes)

    def images_of(self, step: int) -> tuple[int, int]:
        """How many images a step has, and their size."""
        size = self.sizes[step % len(self.sizes)]
        return self.batch * self.largest**2 // size**2, size

    @classmethod
    def parse(cls, text: str) -> "Stage":
        """A stage from ``SIZES:BATCH:STEPS``, as ``64:16:4000`` or ``128,256:2:4000``.

        Raises:
            ValueError: the text is something else.
        """
        try:
            first, *others = text.split(":")
            sizes = tuple(int(size) for size in first.split(","))
            batch, steps = (int(part) for part in others)
        except ValueError:
            raise ValueError(
                f"{text!r} is no stage: expected SIZES:BATCH:STEPS, as 64:16:4000 or 128,256:2:4000."
            ) from None
        if min(*sizes, batch, steps) < 1:
            raise ValueError(f"{text!r}: expected positive numbers in SIZES:BATCH:STEPS.")
        return cls(sizes, batch, steps)


@dataclass
class Settings:
    """What a run depends on.

    Attributes:
        folder: where checkpoint, export and log are written.
        stages: one after another.
        begin: step to begin with, where the weights have been trained before.
        learning_rate: the highest one.
        seed: of the initial weights and of all images and prompts.
        device: where training runs.
    """

    folder: Path
    stages: tuple[Stage, ...]
    begin: int
    learning_rate: float
    seed: int
    device: torch.device


class Trainer:
    """Trains a SAM on generated images and continues from its own checkpoint where the folder has one.

    Several processes, which have joined one another, each draw images of their own and share their gradients.

    Args:
        network: its parameters are trained in place.
        settings: see there.
    """

    def __init__(self, network: ResizableSam, settings: Settings) -> None:
        self.settings = settings
        self.network = network.to(settings.device)
        self.parameters = {name: p for name, p in network.sam.named_parameters() if _is_used(name)}
        self.optimizer = torch.optim.AdamW(
            _groups(self.parameters), lr=0, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters.values()]
        self.scores: list[tuple[int, float]] = []
        self.step, self.seconds = settings.begin, 0.0
        self.process, self.processes = place_of_process()
        self.generator = Generator(settings.device)
        settings.folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._resume()

    def run(self) -> None:
        """Train until the last stage is over or gains no more; leaves checkpoint, export and log in the folder."""
        began = time.monotonic() - self.seconds
        logged = saved = self.seconds
        losses: list[float] = []
        images = 0
        while self.step < self._steps and not self._gains_no_more():
            images += self._stage.images_of(self.step)[0] * self.processes
            losses.append(self._train_step())
            self.seconds = time.monotonic() - began
            if self.seconds - logged >= LOG_EVERY:
                rate = images / (self.seconds - logged)
                self._log(loss=sum(losses) / len(losses), images_per_second=round(rate, 2))
                losses, images, logged = [], 0, self.seconds
            if self.seconds - saved >= SAVE_EVERY:
                self._save()
                saved = self.seconds
        self._save()

    @property
    def _steps(self) -> int:
        """Of all stages together."""
        return sum(stage.steps for stage in self.settings.stages)

    @property
    def _stage(self) -> Stage:
        """The stage that the next step belongs to; the last one at the end."""
        left = self.step
        for stage in self.settings.stages:
            if left < stage.steps:
                return stage
            left -= stage.steps
        return self.settings.stages[-1]

    def _gains_no_more(self) -> bool:
        """Whether held-out images have reached a plateau; the process that scores says it to the others."""
        first = self._steps - self.settings.stages[-1].steps  # others' held-out images are others
        scores = [dice for step, dice in self.scores if step > first]
        before, last = scores[:-PATIENCE], scores[-PATIENCE:]
        plateau = torch.tensor(bool(before) and max(last) < max(before) + LEAST_GAIN, device=self.settings.device)
        if self.processes > 1:
            dist.broadcast(plateau, 0)
        return bool(plateau)

    @property
    def _learning_rate(self) -> float:
        falling = max(0.0, (self.step / self._steps - DECAY_FROM) / (1 - DECAY_FROM))
        warm = min(1.0, (self.step + 1 - self.settings.begin) / WARM_UP_STEPS)
        return self.settings.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * falling)) / 2)

    @property
    def _difficulty(self) -> Difficulty:
        """Of the images of this step."""

        def passed(begin: int, end: int) -> float:
            return min(1.0, max(0.0, (self.step - begin) / (end - begin)))

        return Difficulty(hardest=passed(EASY_STEPS, HARD_STEPS), darker=passed(BRIGHT_STEPS, MIXED_STEPS) / 2)

    def _train_step(self) -> float:
        """One step on new images; returns its loss."""
        self.generator.manual_seed(1_000_003 * self.settings.seed + self.step * self.processes + self.process)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate
        images, targets = self._draw(*self._stage.images_of(self.step), self._difficulty)
        self.network.train()
        with torch.autocast(self.settings.device.type, torch.bfloat16, enabled=_has_bfloat16(self.settings.device)):
            loss = self._loss(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The gradient is not finite at step {self.step}: continue from the last checkpoint with a lower "
                "learning rate."
            )
        self.optimizer.step()
        # at first the average follows closely, or it would remember the random weights
        share = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.parameters.values()), 1 - share)
        self.step += 1
        return float(loss.detach())

    def _share_gradients(self) -> None:
        """Give every process the mean of all gradients."""
        if self.processes == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters.values()]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= self.processes
        parts = together.split([gradient.numel() for gradient in gradients])
        for p, part in zip(self.parameters.values(), parts, strict=True):
            p.grad = part.view_as(p)

    def _draw(self, count: int, size: int, difficulty: Difficulty) -> tuple[Tensor, Targets]:
        """New images (B, 1, S, S) and what is asked for in them."""
        group = {} if self.settings.device.type == "cpu" else {"group": max(1, count // 8)}
        scenes = generate(self.generator, count, size, difficulty=difficulty, **group)
        return scenes.images, choose_targets(self.generator, scenes, PROMPTS)

    def _loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Four steps in five ask with boxes, the others with a click; one in four is corrected with another click."""
        with_boxes, corrected = torch.rand(2, generator=self.generator, device=self.generator.device).tolist()
        embeddings = self.network.encode(images)
        masks = F.adaptive_avg_pool2d(targets.masks.float(), embeddings.shape[-1] * 4)
        if with_boxes < 0.8:
            tokens = self.network.box_tokens(jitter_boxes(self.generator, targets.boxes, images.shape[-1]))
        else:
            points = first_clicks(self.generator, masks)
            labels = torch.ones(points.shape[:-1], dtype=torch.long, device=points.device)
            nothing = torch.cat((points, torch.zeros_like(points)), 2), torch.cat((labels, -labels), 2)
            tokens = self.network.point_tokens(*nothing)
        logits, quality = self.network.decode(embeddings, tokens)
        loss = mask_loss(logits.float(), quality.float(), masks, targets.weights)
        if corrected < 0.25:
            clicks = self.network.point_tokens(*correcting_clicks(logits.detach(), masks))
            logits, quality = self.network.decode(embeddings, torch.cat((tokens, clicks), dim=2))
            loss = (loss + mask_loss(logits.float(), quality.float(), masks, targets.weights)) / 2
        return loss

    @torch.no_grad()
    def _score(self) -> dict[str, float]:
        """DSC of the averaged weights with exact boxes on held-out images, beside that of the inscribed ellipse."""
        self.network.eval()
        training = [p.detach().clone() for p in self.parameters.values()]
        torch._foreach_copy_(list(self.parameters.values()), self.average)
        found, ellipse = [], []
        for index in range(HELD_OUT // 8):
            self.generator.manual_seed(2**40 + index)
            images, targets = self._draw(8, self._stage.largest, ALL_LEVELS)
            logits, _ = self.network.decode(self.network.encode(images), self.network.box_tokens(targets.boxes))
            predicted = F.interpolate(logits, targets.masks.shape[-2:], mode="bilinear", align_corners=False) > 0
            found.append(dice_score(predicted, targets.masks, targets.weights))
            ellipses = inscribed_ellipse(targets.boxes, targets.masks.shape[-2:])
            ellipse.append(dice_score(ellipses, targets.masks, targets.weights))
        torch._foreach_copy_(list(self.parameters.values()), training)
        return {"dice": sum(found) / len(found), "ellipse_dice": sum(ellipse) / len(ellipse)}

    @property
    def _checkpoint(self) -> Path:
        return self.settings.folder / "checkpoint.pt"

    @property
    def _log_file(self) -> Path:
        return self.settings.folder / "log.jsonl"

    def _save(self) -> None:
        """Score, write the checkpoint and the averaged weights in half precision; one process does."""
        if self.process > 0:
            return
        score = self._score()
        self.scores.append((self.step, score["dice"]))
        names = list(self.parameters)
        checkpoint = {
            "sam": self.network.sam.state_dict(),
            "average": dict(zip(names, self.average, strict=True)),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "scores": self.scores,
            "seed": self.settings.seed,
        }
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(self._checkpoint, buffer.getvalue())
        exported = self.network.sam.state_dict() | checkpoint["average"]
        exported = {name: tensor.half().contiguous().cpu() for name, tensor in exported.items()}
        metadata = {"steps": str(self.step), "seed": str(self.settings.seed), "licence": "Apache-2.0"}
        write_atomically(self.settings.folder / "vit_mini.safetensors", safetensors.torch.save(exported, metadata))
        self._log(**score)

    def _resume(self) -> None:
        checkpoint = torch.load(self._checkpoint, map_location=self.settings.device, weights_only=True)
        if checkpoint["seed"] != self.settings.seed:
            raise ValueError(
                f"{self._checkpoint} was trained with seed {checkpoint['seed']}, not {self.settings.seed}: pass that "
                "seed to continue, or name another folder."
            )
        self.network.sam.load_state_dict(checkpoint["sam"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.average = [checkpoint["average"][name] for name in self.parameters]
        self.step, self.seconds, self.scores = checkpoint["step"], checkpoint["seconds"], checkpoint["scores"]
        if self.process == 0 and self._log_file.exists():  # what came after the checkpoint is done once more
            lines = self._log_file.read_text(encoding="utf-8").splitlines()
            kept = [line + "\n" for line in lines if json.loads(line)["step"] <= self.step]
            write_atomically(self._log_file, "".join(kept).encode())

    def _log(self, **values: Any) -> None:
        """Add a line to the log and print it; one process does."""
        if self.process > 0:
            return
        values = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        where: dict[str, Any] = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 1),
            "size": self._stage.largest,
            "learning_rate": f"{self._learning_rate:.2e}",
        }
        line = json.dumps(where | values)
        with open(self._log_file, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def steps_of(weights: Path) -> int:
    """Steps that exported weights have been trained for, as their metadata say; 0 where they say nothing.

    Raises:
        OSError: there is no such file.
    """
    if weights.suffix != ".safetensors":
        return 0
    with safetensors.safe_open(weights, "pt") as file:
        return int((file.metadata() or {}).get("steps", 0))


def _is_used(name: str) -> bool:
    """Whether a parameter takes part: masks are no prompts here, and one mask is asked for, not three."""
    unused = ("prompt_encoder.mask_downscaling.", *(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3)))
    return not name.startswith(unused)


def _groups(parameters: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Weight matrices decay; biases, norms, tokens and positions do not."""
    kept_out = ("embed", "token", "rel_pos", "norm")
    decays = {name: p.ndim > 1 and not any(word in name for word in kept_out) for name, p in parameters.items()}
    return [
        {"params": [p for name, p in parameters.items() if decays[name]]},
        {"params": [p for name, p in parameters.items() if not decays[name]], "weight_decay": 0.0},
    ]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16, rather than imitating it slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))
