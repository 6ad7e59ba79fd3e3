"""Adapter folders: ``adapter_config.json`` and ``adapter_model.safetensors``, the layout known from Hugging Face.

The configuration says what the weights belong to, and loading checks it. The weights file carries a copy of the
configuration: each of the two files is replaced in one step, and where a process is killed between the two, the copy
stands in for a configuration that is older than its weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import monai_cobot
from monai_cobot.files import write_atomically
from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.sam import variant_of

from .adapter import Adapter, adapt

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FORMAT = 1


class AdapterError(ValueError):
    """An adapter folder that cannot be used, with the reason and what to do."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is and what it belongs to.

    Attributes:
        method: registered name of the method.
        method_options: the method's options.
        orchestration: COBOT's options, or None where it is not used (or was folded).
        decoder: ``"full"``, ``"frozen"`` or ``"lora"``.
        variant: the SAM that it belongs to, such as ``"vit_b"``.
        image_size: the input size of that SAM in pixels.
        base_sha256: SHA-256 of that SAM's weights, as :func:`~monai_cobot.networks.base_weights_sha256` takes it.
        weights_sha256: SHA-256 of the adapter's weights file's tensors.
        preset: the intensity preset that its images were scaled with.
        labels: what it segments, name -> value in the label maps it was trained on; of an adapter with classes in the
            order of the classes.
        classes: how many classes it segments without prompts; None where boxes are prompts.
        details: whatever else is worth knowing, such as the data set and the validation DSC.
        package_version: version of monai_cobot that wrote it.
        format: version of this layout.
    """

    method: str
    method_options: dict[str, Any]
    orchestration: dict[str, Any] | None
    decoder: str
    variant: str
    image_size: int
    base_sha256: str
    weights_sha256: str = ""
    preset: str | None = None
    labels: dict[str, int] = field(default_factory=dict)
    classes: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    package_version: str = monai_cobot.__version__
    format: int = FORMAT

    def check_labels(self, labels: Mapping[str, int]) -> None:
        """Whether an adapter with classes has these, in this order; one for boxes takes any.

        Raises:
            ValueError: it has not.
        """
        if self.classes is not None and list(labels) != list(self.labels):
            raise ValueError(
                f"the adapter segments the classes {', '.join(self.labels)}, in this order, and not "
                f"{', '.join(labels)}; leave label out, or choose another adapter."
            )


def save_adapter(
    adapter: Adapter,
    folder: str | os.PathLike[str],
    *,
    preset: str | None = None,
    labels: dict[str, int] | None = None,
    details: dict[str, Any] | None = None,
) -> Path:
    """Write an adapter folder. What was there before stays whole until the new files are complete.

    Args:
        adapter: the adapter; a merged one is saved just as well.
        folder: where to; it is made where it does not exist.
        preset: the intensity preset that its images were scaled with.
        labels: what it segments, name -> value.
        details: whatever else is worth knowing, as JSON values.

    Returns:
        The folder.

    Raises:
        AdapterError: if it cannot be written (disk full, no permission, ...), or ``labels`` or ``details`` hold what
            JSON does not know; the previous files are then intact.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.state_dict().items()}
    config = AdapterConfig(
        method=adapter.method.name,
        method_options=adapter.method.options(),
        orchestration=adapter.orchestration,
        decoder=adapter.decoder,
        variant=variant_of(adapter.sam),
        image_size=adapter.sam.image_encoder.img_size,
        base_sha256=adapter.base_sha256,
        weights_sha256=hashlib.sha256(save(tensors)).hexdigest(),
        preset=preset,
        labels=labels or {},
        classes=adapter.classes,
        details=details or {},
    )
    try:
        text = json.dumps(asdict(config), indent=2) + "\n"
    except TypeError as error:
        raise AdapterError(f"The labels and details of an adapter are kept as JSON: {error}.") from error
    try:
        # one entry alone: safetensors writes several in random order, and the same adapter would not be the same file
        write_atomically(folder / WEIGHTS_FILE, save(tensors, metadata={"adapter_config": text}))
        write_atomically(folder / CONFIG_FILE, text.encode())
    except OSError as error:
        raise AdapterError(
            f"The adapter could not be saved ({error}). Free some space or choose another folder."
        ) from error
    return folder


def read_adapter_config(folder: str | os.PathLike[str]) -> AdapterConfig:
    """What the adapter in a folder is and what it belongs to.

    Raises:
        AdapterError: if the folder holds no complete adapter or one of a newer layout.
    """
    return _read(Path(folder), with_weights=False)[0]


def load_adapter(sam: Sam, folder: str | os.PathLike[str]) -> Adapter:
    """Adapt a SAM with a saved adapter, in place.

    Args:
        sam: the SAM that the adapter was trained on: same variant, input size and weights, in the same precision (half
            precision comes afterwards, with ``sam.half()``), not adapted yet.
        folder: an adapter folder.

    Returns:
        The adapter with its saved weights.

    Raises:
        AdapterError: if the folder holds no complete adapter, or the adapter belongs to another SAM; the message says
            what differs. The SAM is then unchanged. Also if the SAM is adapted already.
    """
    folder = Path(folder)
    config, state = _read(folder, with_weights=True)
    here = {"variant": variant_of(sam), "image_size": sam.image_encoder.img_size}
    differences = [
        f"{name} is {getattr(config, name)!r} there and {value!r} here"
        for name, value in here.items()
        if getattr(config, name) != value
    ]
    if differences:
        raise AdapterError(
            f"The adapter in {folder} belongs to another SAM: {'; '.join(differences)}. "
            f"Build the SAM with build_sam({config.variant!r}, image_size={config.image_size})."
        )
    try:
        adapter = adapt(
            sam,
            config.method,
            orchestrate=config.orchestration is not None,
            decoder=config.decoder,
            classes=config.classes,
            **config.method_options,
            **(config.orchestration or {}),
        )
    except (ValueError, TypeError) as error:
        raise AdapterError(f"The adapter in {folder} cannot be put into this SAM: {error}") from error
    try:
        if adapter.base_sha256 != config.base_sha256:
            raise AdapterError(
                f"The adapter in {folder} was trained on other weights of {config.variant}: their SHA-256 begins with "
                f"{config.base_sha256[:12]}, that of the SAM here with {adapter.base_sha256[:12]}. "
                "Give build_sam the checkpoint that the adapter was trained on."
            )
        try:
            adapter.load_state_dict(state)
        except ValueError as error:
            raise AdapterError(f"The weights in {folder} are not those that its configuration says: {error}") from error
    except BaseException:  # also no memory or an interrupt: nobody would hold the adapter to remove it
        adapter.remove()
        raise
    return adapter


_KINDS = {"method": str, "method_options": dict, "variant": str, "image_size": int, "labels": dict, "details": dict}
"""Entries that others rely on, and what they are."""


def _read(folder: Path, with_weights: bool) -> tuple[AdapterConfig, dict[str, Any]]:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(
                f"{folder} is no adapter folder: {name} is missing. It should hold {CONFIG_FILE} and {WEIGHTS_FILE}."
            )
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            embedded = (file.metadata() or {}).get("adapter_config")
            state = {name: file.get_tensor(name) for name in file.keys()} if with_weights else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE} is damaged ({error}). Copy or train the adapter again.") from error
    config = _parse((folder / CONFIG_FILE).read_bytes(), folder / CONFIG_FILE)
    if embedded is not None:
        of_weights = _parse(embedded, folder / WEIGHTS_FILE)
        if of_weights.weights_sha256 != config.weights_sha256:  # killed between the two files
            config = of_weights
    if with_weights and hashlib.sha256(save(state)).hexdigest() != config.weights_sha256:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE} is not the file that {CONFIG_FILE} describes (its SHA-256 differs). "
            "Copy both files from the same adapter again."
        )
    return config, state


def _parse(text: str | bytes, source: Path) -> AdapterConfig:
    try:
        values = json.loads(text)
        if values.get("format", 0) > FORMAT:
            raise AdapterError(
                f"{source} has layout {values['format']}, written by monai_cobot {values.get('package_version')}; "
                f"this version reads up to {FORMAT}. Update monai_cobot."
            )
        known = {entry.name for entry in fields(AdapterConfig)}
        config = AdapterConfig(**{name: value for name, value in values.items() if name in known})
        for name, kind in _KINDS.items():
            if not isinstance(getattr(config, name), kind):
                raise TypeError(f"{name} is {getattr(config, name)!r}")
        if not all(isinstance(value, int) for value in config.labels.values()):
            raise TypeError(f"labels is {config.labels!r}; values are whole numbers")
        return config
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{source} is no adapter configuration ({error}). Copy or train the adapter again."
        ) from error
