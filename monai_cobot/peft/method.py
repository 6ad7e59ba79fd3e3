"""The contract of a fine-tuning method, and the registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from monai_cobot.networks._segment_anything import Sam

from .bottleneck import DownProjection


class AdaptedModule(nn.Module):
    """A module of SAM with an adapter in it.

    It takes the place of the original and keeps the original's parameters under their own names, so that the keys of
    SAM's state dict stay as they are and only the adapter's come in addition.

    Attributes:
        not_mergeable: why the adapter cannot be put into the original weights; None where it can.
        pointwise: whether it does to each token (..., D) the same, whatever the others are. The encoder then leaves out
            the padding of windows and takes some rows at a time.
    """

    not_mergeable: ClassVar[str | None] = None
    pointwise: bool = False

    @property
    def merged(self) -> bool:
        """Whether the adapter is in the original weights now."""
        return False

    def slots(self) -> tuple[DownProjection, ...]:
        """The bottlenecks that COBOT may orchestrate, in network order."""
        return ()

    def merge(self) -> None:
        """Put the adapter into the original weights, so that it costs nothing.

        Raises:
            TypeError: if the adapter is not a linear function of what they are; the message says why.
        """
        raise TypeError(self.not_mergeable)

    def unmerge(self) -> None:
        """Take the adapter out of the original weights again, which are then what they were, bit for bit.

        Raises:
            TypeError: if the adapter cannot be merged; the message says why.
        """
        raise TypeError(self.not_mergeable)

    def auxiliary_loss(self) -> Tensor | None:
        """What the adapter adds to the loss of the last forward pass, a scalar, or None."""
        return None


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: its options (the fields of the data class) and where it puts what into SAM.

    To add one, derive a frozen data class in a file of its own, decorate it with :func:`register` and import it in
    ``monai_cobot/peft/__init__.py``; injection, freezing, counting, merging, saving and loading are the
    :class:`~monai_cobot.peft.adapter.Adapter`'s.
    """

    name: ClassVar[str]

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Yield (dotted name of a module of ``sam``, the module that takes its place), in network order."""
        yield from ()

    def unfrozen(self, sam: Sam) -> Iterator[str]:
        """Yield the dotted names of those parameters of ``sam`` in the image encoder that are trained themselves."""
        yield from ()

    def options(self) -> dict[str, Any]:
        """The method's options by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def require_whole(what: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        ValueError: it is none; ``what`` says whose it is.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}.")


METHODS: dict[str, type[Method]] = {}

MethodType = TypeVar("MethodType", bound=type[Method])


def register(name: str) -> Callable[[MethodType], MethodType]:
    """Class decorator: make a method available to :func:`~monai_cobot.peft.adapter.adapt` under ``name``."""

    def add(method: MethodType) -> MethodType:
        if name in METHODS:
            raise ValueError(f"A method named {name!r} is registered already: {METHODS[name].__name__}.")
        method.name = name
        METHODS[name] = method
        return method

    return add


def find_method(name: str) -> type[Method]:
    """The registered method of that name.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}; choose one of {', '.join(sorted(METHODS))}.")
    return METHODS[name]


def options_of(name: str, **candidates: Any) -> dict[str, Any]:
    """Those of the candidate options that the method has: one config can name the options of several methods.

    None stands for the method's own default. Example: ``options_of("lora", rank=4, bottleneck=16, blocks=None)`` is
    ``{"rank": 4}``.
    """
    known = {field.name for field in fields(find_method(name))}
    return {option: value for option, value in candidates.items() if option in known and value is not None}


def width_option(name: str) -> str | None:
    """The option of a method that is the width of its bottleneck; None where it has none."""
    known = {field.name for field in fields(find_method(name))}
    return next((option for option in ("rank", "bottleneck") if option in known), None)


def is_orchestrated(name: str, orchestrate: bool | None = None) -> bool:
    """Whether COBOT goes over a method: as it is said, and where nobody says so, where the method's own bottleneck can
    have quaternions.

    That is lora, adaptformer, houlsby and sam_adapter; conv_lora's is 3 wide, as in its paper.
    """
    if orchestrate is not None:
        return orchestrate
    option = width_option(name)
    width: int = 0 if option is None else find_method(name)().options()[option]
    return width > 0 and width % 4 == 0
