"""Options that are checked before anything is loaded, so that what is wrong is said at once, and by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["check_axis", "check_backend", "check_device", "check_preset", "wrong_option"]


@contextmanager
def wrong_option(name: str) -> Iterator[None]:
    """Makes of a value that cannot be used a wrong command line.

    Raises:
        typer.BadParameter: with the option's name, for a ValueError in the block; the exit code is then 2.
    """
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from error


def check_axis(axis: str | None) -> None:
    """Raises typer.BadParameter unless it is an axis or None."""
    from monai_cobot.transforms import SLICE_AXES

    _check_choice("--axis", axis, SLICE_AXES)


def check_backend(backend: str) -> None:
    """Raises typer.BadParameter unless there is such a backend; whether it runs here is seen later."""
    from monai_cobot.networks.backends import BACKENDS

    _check_choice("--backend", backend, BACKENDS)


def check_device(device: str | None) -> None:
    """Raises typer.BadParameter unless the device can be used here, or is None."""
    from monai_cobot.options import check_options

    if device is not None:
        with wrong_option("--device"):
            check_options(device=device)


def check_preset(preset: str | None) -> None:
    """Raises typer.BadParameter unless it is a preset or None."""
    from monai_cobot.transforms import ScaleIntensityPreset

    if preset is not None:
        with wrong_option("--preset"):
            ScaleIntensityPreset(preset)


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise typer.BadParameter(f"{value!r} is none; expected one of {', '.join(choices)}.", param_hint=name)
