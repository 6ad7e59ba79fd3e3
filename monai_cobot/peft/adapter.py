"""Adapting a SAM: one contract over every method."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.checkpoint import base_weights_sha256
from monai_cobot.networks.class_head import ATTRIBUTE as CLASS_HEAD
from monai_cobot.networks.class_head import ClassHead, unused_with_classes

from .bottleneck import DownProjection
from .decoder import DECODER_MODES, low_rank_decoder
from .method import AdaptedModule, Method, find_method
from .orchestration import CrossBlockOrchestrator, SlotMixing

ORCHESTRATION_FACTOR = 100.0  # the paper trains COBOT's own parameters at 100 times the learning rate
ORCHESTRATOR = "image_encoder.orchestrator"
ORCHESTRATION_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(CrossBlockOrchestrator).parameters.items()
    if parameter.default is not parameter.empty
}


def adapt(
    sam: Sam, method: str, orchestrate: bool = False, decoder: str = "full", classes: int | None = None, **options: Any
) -> Adapter:
    """Make a SAM ready for parameter-efficient fine-tuning, in place.

    SAM's own weights are frozen and the method's modules are put in, on the device and in the type of what they adapt;
    a freshly adapted SAM computes what SAM did, but with ``vpt``, whose prompts take part from the start, and with
    ``classes``, which are new.

    Args:
        sam: a ``Sam`` of segment_anything, as :func:`~monai_cobot.networks.build_sam` gives it.
        method: a registered name, see ``monai_cobot.peft.METHODS``.
        orchestrate: put COBOT over the method's bottlenecks (:class:`CrossBlockOrchestrator`).
        decoder: the mask decoder is trained (``"full"``), kept (``"frozen"``) or given LoRA (``"lora"``). The method
            ``freeze`` keeps it in any case.
        classes: segment so many classes and a background without prompts, with a trained
            :class:`~monai_cobot.networks.ClassHead`; None for masks of boxes.
        **options: the method's own options, such as ``rank=4`` or ``bottleneck=16``, and with ``orchestrate=True``
            those of :class:`CrossBlockOrchestrator`: ``relation``, ``hypercomplex``, ``quaternion_init`` and
            ``coefficients``.

    Returns:
        The adapter, which owns all that was added.

    Raises:
        ValueError: for an unknown method, option or decoder mode, a SAM that is adapted already, a method without
            a bottleneck to orchestrate, a width that quaternions cannot have, or classes with ``freeze``, which trains
            nothing. The SAM is then unchanged.
    """
    method_class = find_method(method)
    allowed = inspect.signature(method_class).parameters
    known = [*allowed, *(ORCHESTRATION_DEFAULTS if orchestrate else ())]
    unknown = [option for option in options if option not in known]
    if unknown:
        hint = (
            "" if orchestrate or not set(unknown) & set(ORCHESTRATION_DEFAULTS) else " (COBOT's need orchestrate=True)"
        )
        raise ValueError(
            f"Method {method!r} has no option {', '.join(map(repr, unknown))}{hint}; "
            f"it has {', '.join(known) if known else 'none'}."
        )
    chosen = method_class(**{name: value for name, value in options.items() if name in allowed})
    # with the defaults, so that a saved adapter stays what it is where a default changes
    orchestration = ORCHESTRATION_DEFAULTS | {name: options[name] for name in options if name not in allowed}
    return Adapter(sam, chosen, orchestration if orchestrate else None, decoder, classes)


class Adapter:
    """What a fine-tuning method added to a SAM, and everything that can be done with it. Made by :func:`adapt`.

    Attributes:
        method: the method with its options.
        orchestration: COBOT's options, or None where it is not used (any more).
        decoder: ``"full"``, ``"frozen"`` or ``"lora"``.
        classes: how many classes are segmented without prompts; None where boxes are prompts.
        base_sha256: SHA-256 of the SAM's weights before it was adapted.
    """

    def __init__(
        self,
        sam: Sam,
        method: Method,
        orchestration: Mapping[str, Any] | None,
        decoder: str,
        classes: int | None = None,
    ) -> None:
        if decoder not in DECODER_MODES:
            raise ValueError(f"Unknown decoder mode {decoder!r}; choose one of {', '.join(DECODER_MODES)}.")
        present = getattr(sam, "adapted_with", None)
        if present is not None:
            raise ValueError(
                f"This SAM is adapted already (with {present!r}); call remove() on that adapter or build a new SAM."
            )
        if method.name == "freeze":
            if classes is not None:
                raise ValueError("Method 'freeze' trains nothing, and classes have to be learned: choose another one.")
            decoder = "frozen"
        elif method.name == "decoder_only" and decoder == "frozen" and classes is None:
            raise ValueError("Method 'decoder_only' with decoder='frozen' trains nothing; choose 'full' or 'lora'.")
        self._sam: Sam | None = sam
        self.method = method
        self.decoder = decoder
        self.classes = classes
        self.orchestration = None if orchestration is None else dict(orchestration)

        # All that can fail comes first, for lack of memory too, so that a failure leaves the SAM as it was.
        modules = dict(method.replacements(sam))
        orchestrator = None if orchestration is None else _orchestrator_over(modules, method, orchestration)
        if decoder == "lora":
            modules.update(low_rank_decoder(sam))
        unfrozen = list(method.unfrozen(sam))
        if decoder == "full":
            unfrozen += [
                f"mask_decoder.{name}"
                for name, _ in sam.mask_decoder.named_parameters()
                if classes is None or not unused_with_classes(name)
            ]
        class_head = None if classes is None else ClassHead(sam.mask_decoder, classes)
        self.base_sha256 = base_weights_sha256(sam)
        self._originals = {name: sam.get_submodule(name) for name in modules}
        for name, module in modules.items():
            _fit(module, self._originals[name])
        if orchestrator is not None:
            orchestrator.to(next(sam.image_encoder.parameters()))
        parameters = dict(sam.named_parameters())
        self._unfrozen_before = {name: parameters[name].detach().clone() for name in unfrozen}

        base_names = set(sam.state_dict())
        self._required_grad = {name: parameter.requires_grad for name, parameter in parameters.items()}
        sam.requires_grad_(False)
        for name in unfrozen:
            parameters[name].requires_grad_(True)
        for name, module in modules.items():
            sam.set_submodule(name, module.train(sam.training))
        if orchestrator is not None:
            sam.image_encoder.add_module("orchestrator", orchestrator)
            self._refresh_hook = sam.image_encoder.register_forward_pre_hook(orchestrator.refresh)
        if class_head is not None:
            sam.mask_decoder.add_module(CLASS_HEAD, class_head)
        sam.adapted_with = method.name
        self._own_names = [name for name in sam.state_dict() if name not in base_names or name in self._unfrozen_before]

    @property
    def sam(self) -> Sam:
        """The adapted SAM.

        Raises:
            ValueError: after :meth:`remove`.
        """
        if self._sam is None:
            raise ValueError("This adapter was removed from its SAM and cannot be used any more; adapt the SAM anew.")
        return self._sam

    @property
    def orchestrator(self) -> CrossBlockOrchestrator | None:
        """COBOT's parameters, or None where it is not used."""
        encoder = self.sam.image_encoder
        return encoder.orchestrator if self.orchestration is not None else None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters, under the names that they have in the SAM."""
        trained = dict(self.sam.named_parameters())
        yield from ((name, trained[name]) for name in self._own_names if name in trained)

    def count_parameters(self) -> dict[str, int]:
        """How many numbers are trained: ``{"encoder": ..., "decoder": ...}``."""
        counts = {"encoder": 0, "decoder": 0}
        for name, parameter in self.named_parameters():
            counts["encoder" if name.startswith("image_encoder.") else "decoder"] += parameter.numel()
        return counts

    def parameter_groups(
        self, lr: float, orchestration_factor: float = ORCHESTRATION_FACTOR, decoder_factor: float = 1.0
    ) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: the adapter, the decoder, and COBOT's parameters, each at its own rate.

        Args:
            lr: learning rate of the adapter.
            orchestration_factor: COBOT's parameters learn at this many times ``lr`` (100 in the paper).
            decoder_factor: the decoder's learn at this many times ``lr`` (1 in the paper). An adapter begins at zero
                and stands higher rates than a decoder that has been trained.

        Returns:
            Groups with ``name``, ``params`` and ``lr``; a part that has no parameters has no group.

        Raises:
            ValueError: if nothing is trained.
        """
        groups: dict[str, dict[str, Any]] = {
            "adapter": {"lr": lr},
            "decoder": {"lr": lr * decoder_factor},
            "orchestration": {"lr": lr * orchestration_factor},
        }
        for name, parameter in self.named_parameters():
            part = "decoder" if name.startswith("mask_decoder.") else "adapter"
            part = "orchestration" if name.startswith(ORCHESTRATOR + ".") else part
            groups[part].setdefault("params", []).append(parameter)
        filled = [{"name": name, **group} for name, group in groups.items() if "params" in group]
        if not filled:
            raise ValueError(
                f"Method {self.method.name!r} with decoder={self.decoder!r} has nothing to train; "
                "evaluate it as it is, or choose another method."
            )
        return filled

    def auxiliary_loss(self) -> Tensor:
        """What the method adds to the loss after a forward pass, a scalar; zero for most methods."""
        losses = [module.auxiliary_loss() for module in self._adapted_modules()]
        return sum((loss for loss in losses if loss is not None), start=torch.zeros((), device=self._device))

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's own weights alone, under the names that they have in the SAM."""
        state = self.sam.state_dict()
        return {name: state[name] for name in self._own_names}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_dict` gave; a merged adapter stays merged, with the new weights.

        Raises:
            ValueError: if names or shapes differ; the message lists them and nothing is loaded.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        misshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
        if missing or unexpected or misshaped:
            raise ValueError(
                f"These weights do not fit an adapter of method {self.method.name!r}: "
                f"missing {missing}, unexpected {unexpected}, of another shape {misshaped}."
            )
        merged = [module for module in self._adapted_modules() if module.merged]
        for module in merged:
            module.unmerge()
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self._merge(merged)

    def fold(self) -> None:
        """Fold COBOT into the bottlenecks: what is left is the plain base method, with the same output and no COBOT.

        Without COBOT nothing happens. Training can go on, then without orchestration.
        """
        if self.orchestrator is None:
            return
        self.orchestrator.refresh()
        for slot in self._slots():
            slot.fold()
        self._own_names = [name for name in self._own_names if not name.startswith(ORCHESTRATOR + ".")]
        self._detach_orchestrator()

    def merge(self) -> None:
        """Put the adapter into SAM's own weights, so that it costs nothing at inference. Merging twice changes nothing.

        While it is merged, the adapter gets no gradient: :meth:`unmerge` before training goes on.

        Raises:
            TypeError: if the method is no linear function of SAM's weights; the message says why, and nothing is
                merged.
        """
        modules = self._adapted_modules()
        _check_mergeable(modules)
        self._merge(modules)

    def prepare_for_inference(self) -> Sam:
        """Fold COBOT, and merge what can be merged, also where the method as a whole cannot; the output stays the same.

        Returns:
            The SAM.
        """
        self.fold()
        self._merge([module for module in self._adapted_modules() if module.not_mergeable is None])
        return self.sam

    def _merge(self, modules: list[AdaptedModule]) -> None:
        if self.orchestrator is not None and modules:
            self.orchestrator.refresh()
        for module in modules:
            module.merge()

    def unmerge(self) -> None:
        """Take the adapter out of SAM's weights again; they are then what they were, bit for bit.

        Raises:
            TypeError: if nothing is merged, for the method cannot be.
        """
        modules = self._adapted_modules()
        merged = [module for module in modules if module.merged]
        if not merged:
            _check_mergeable(modules)
        for module in merged:
            module.unmerge()

    def remove(self) -> None:
        """Give back the SAM as it was before :func:`adapt`: modules, weights and ``requires_grad`` flags.

        The adapter is of no use afterwards: whatever it is asked, it raises a ValueError.
        """
        for module in self._adapted_modules():
            if module.merged:
                module.unmerge()
        self._detach_orchestrator()
        if self.classes is not None:
            delattr(self.sam.mask_decoder, CLASS_HEAD)
        for name, original in self._originals.items():
            # where the SAM was moved or loaded anew meanwhile, its parameters may be other objects
            for key, _ in original.named_parameters(recurse=False):
                setattr(original, key, self.sam.get_submodule(name).get_parameter(key))
            self.sam.set_submodule(name, original.train(self.sam.training))
        parameters = dict(self.sam.named_parameters())
        with torch.no_grad():
            for name, value in self._unfrozen_before.items():
                parameters[name].copy_(value)
                parameters[name].grad = None
        for name, required in self._required_grad.items():
            parameters[name].requires_grad_(required)
        del self.sam.adapted_with
        self._sam = None

    @property
    def _device(self) -> torch.device:
        return next(self.sam.parameters()).device

    def _adapted_modules(self) -> list[AdaptedModule]:
        sam = self.sam
        return [sam.get_submodule(name) for name in self._originals]

    def _slots(self) -> list[DownProjection]:
        return [slot for module in self._adapted_modules() for slot in module.slots() if slot.mixing is not None]

    def _detach_orchestrator(self) -> None:
        if self.orchestration is not None:
            self._refresh_hook.remove()
            del self.sam.image_encoder.orchestrator
            self.orchestration = None


def _check_mergeable(modules: list[AdaptedModule]) -> None:
    for module in modules:
        if module.not_mergeable is not None:
            raise TypeError(module.not_mergeable)


def _fit(module: AdaptedModule, original: nn.Module) -> None:
    """Bring what an adapter adds to the device and type of what it adapts; what is SAM's own stays as it is."""
    like = next(original.parameters())
    shared = {id(parameter) for parameter in original.parameters()}
    module._apply(lambda tensor: tensor if id(tensor) in shared else tensor.to(like))


def _orchestrator_over(
    modules: Mapping[str, AdaptedModule], method: Method, options: Mapping[str, Any]
) -> CrossBlockOrchestrator:
    """COBOT over the bottlenecks of the modules, which are told their slots."""
    slots = [slot for module in modules.values() for slot in module.slots()]
    if not slots:
        raise ValueError(
            f"COBOT orchestrates bottlenecks, and method {method.name!r} has none; "
            "use orchestrate=False, or a method such as 'lora' or 'adaptformer'."
        )
    widths = sorted({slot.out_features for slot in slots})
    if len(widths) > 1:
        raise ValueError(f"COBOT needs bottlenecks of one width, but method {method.name!r} has widths {widths}.")
    orchestrator = CrossBlockOrchestrator(len(slots), widths[0], **options)
    orchestrator.orchestrate(slots)
    for index, slot in enumerate(slots):
        slot.mixing = SlotMixing(orchestrator, index)
    return orchestrator
