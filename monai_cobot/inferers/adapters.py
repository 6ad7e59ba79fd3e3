"""One frozen SAM and several adapters over it, side by side."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open
from torch import Tensor, nn

from monai_cobot.data.feature_cache import releases
from monai_cobot.networks import PromptableSam, accelerate, base_weights_sha256
from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.backends import AcceleratedSam, choose_backend
from monai_cobot.networks.sam import variant_of
from monai_cobot.peft import AdapterConfig, AdapterError, load_adapter, read_adapter_config
from monai_cobot.peft.io import WEIGHTS_FILE

__all__ = ["AdaptedSam", "AdapterShelf"]


@dataclass(frozen=True, eq=False)
class AdaptedSam:
    """A SAM ready to segment, with an adapter or as it is.

    Attributes:
        name: what a user calls it.
        network: the network, frozen, in evaluation mode.
        embedding_source: names everything besides the image that its image embeddings depend on; adapters that leave
            the image encoder alone have that of the SAM itself.
        preset: the intensity preset that it was trained with, or None.
        axis: the slice axis that it was trained on.
        labels: what it segments, name -> value; empty where it was not said.
    """

    name: str
    network: PromptableSam
    embedding_source: str
    preset: str | None = None
    axis: str = "axial"
    labels: Mapping[str, int] = field(default_factory=dict)


class AdapterShelf:
    """Adapters over one SAM, which is in memory once: in the backend ``"eager"``, an adapter adds its own weights.

    In another backend, that holds for adapters that leave the image encoder alone: they share one converted or compiled
    encoder. Each of the others has one of its own, as large as the SAM's, which takes seconds (OpenVINO, from its
    cache or a small SAM) to a minute to make when it is loaded.

    Adapters do not disturb one another and may be used from several threads at once. COBOT is folded on loading: the
    output is the same, and nothing is mixed at inference.

    Args:
        sam: frozen and put into evaluation mode here; not adapted.
        device: where everything runs.
        precision: as in :class:`~monai_cobot.networks.PromptableSam`.
        backend: what runs the image encoder, as in :func:`~monai_cobot.networks.accelerate`. Work in another backend
            than ``"eager"`` can be stopped between slices only, not within one.

    Raises:
        ValueError: the SAM is adapted already, or for an unknown precision or backend.
        BackendError: the backend that was asked for is not installed, or does not run on the device.
    """

    def __init__(
        self, sam: Sam, device: torch.device | str = "cpu", precision: str = "auto", backend: str = "eager"
    ) -> None:
        if getattr(sam, "adapted_with", None) is not None:
            raise ValueError("This SAM is adapted already: give the bare SAM, and load its adapters here.")
        self._base_sha256 = base_weights_sha256(sam)
        self._sam = sam.requires_grad_(False).to(device).eval()
        self._backend = backend
        self._precision = precision
        bare = PromptableSam(self._sam, precision)
        choose_backend(bare, backend)  # what cannot run here says so before an adapter is loaded
        self._held_weights = bare.held_weights  # one place for all adapters
        self._loaded: dict[Path, tuple[AdapterConfig, AdaptedSam]] = {}
        # the last one made of every encoder that is in use; who forgets an adapter has its memory back
        self._of_encoder: WeakValueDictionary[str, AcceleratedSam] = WeakValueDictionary()

    @cached_property
    def base(self) -> AdaptedSam:
        """The SAM without an adapter.

        Raises:
            BackendError: the backend that was asked for cannot run it.
        """
        return self._adapted(variant_of(self._sam), self._sam, self._base_sha256)

    def load(self, folder: str | PathLike[str]) -> AdaptedSam:
        """The SAM with the adapter of a folder; one that is loaded already, and did not change since, costs nothing.

        Raises:
            AdapterError: the folder holds no complete adapter, one of another SAM, or one that takes no prompts.
            BackendError: the backend that was asked for cannot run it.
        """
        folder = Path(folder).resolve()
        config = read_adapter_config(folder)
        if config.classes is not None:
            raise AdapterError(
                f"{folder} segments classes without prompts, and prompts are what it would be given here. Use the "
                "bundle's inference.json."
            )
        of_config, adapted = self._loaded.get(folder, (None, None))
        if adapted is None or of_config != config:
            twin = _twin(self._sam, _tensor_names(folder))
            twin.known_sha256 = self._base_sha256  # a second for ViT-B that is not spent on every adapter
            adapter = load_adapter(twin, folder)
            adapter.fold()
            encodes_anew = adapter.count_parameters()["encoder"] > 0
            twin.requires_grad_(False).eval()
            encodes_with = f"{self._base_sha256} {_computes_with(config)}" if encodes_anew else self._base_sha256
            adapted = self._adapted(
                folder.name, twin, encodes_with, config.preset, config.details.get("axis", "axial"), config.labels
            )
            self._loaded[folder] = config, adapted
        return adapted

    def forget(self, adapted: AdaptedSam) -> None:
        """Give the memory of an adapter back."""
        for folder, (_, loaded) in list(self._loaded.items()):  # which another thread may add to meanwhile
            if loaded is adapted:
                self._loaded.pop(folder, None)

    def _adapted(
        self,
        name: str,
        sam: Sam,
        encodes_with: str,
        preset: str | None = None,
        axis: str = "axial",
        labels: Mapping[str, int] | None = None,
    ) -> AdaptedSam:
        promptable = PromptableSam(sam, self._precision, self._held_weights)
        size, dtype = sam.image_encoder.img_size, str(promptable.computing_type()).removeprefix("torch.")
        digest = hashlib.sha256(f"{encodes_with} {self._backend} {releases()}".encode()).hexdigest()[:32]
        source = f"embeddings_{variant_of(sam)}_{size}_{dtype}_{digest}"
        network = accelerate(promptable, self._backend, beside=self._of_encoder.get(source))
        self._of_encoder[source] = network
        return AdaptedSam(name, network, source, preset, axis, labels or {})


def _computes_with(config: AdapterConfig) -> str:
    """What an adapter computes with: beside its weights the options of its method, many of which are in no tensor."""
    options = [config.method, config.method_options, config.orchestration]
    return f"{config.weights_sha256} {json.dumps(options, sort_keys=True)}"


def _tensor_names(folder: Path) -> set[str]:
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        return set(file.keys())


def _twin(sam: Sam, written: set[str]) -> Sam:
    """A copy of a SAM that shares its tensors, but for those named in ``written``, which an adapter overwrites."""
    tensors: dict[str, Tensor] = {**dict(sam.named_parameters()), **dict(sam.named_buffers())}
    shared = {id(tensor): tensor for name, tensor in tensors.items() if name not in written}
    twin: Sam = copy.deepcopy(sam, shared)
    assert isinstance(twin, nn.Module)
    return twin
