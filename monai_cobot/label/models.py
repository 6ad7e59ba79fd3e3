"""What can segment: the SAM as it is, and every adapter in a folder."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from monai_cobot.files import stamp_of
from monai_cobot.inferers import AdaptedSam, SamCollection
from monai_cobot.networks.sam import PACKAGED_VARIANT
from monai_cobot.options import check_options
from monai_cobot.peft import AdapterConfig, AdapterError, read_adapter_config
from monai_cobot.peft.io import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["Models"]

logger = logging.getLogger(__name__)


class Models:
    """The adapters of a folder over their SAMs, each SAM in memory once; any number of threads may use it.

    The folder is looked at anew each time: an adapter that is trained, replaced or deleted meanwhile is there, is the
    new one, or is gone.

    Args:
        folder: holds adapter folders; it need not exist.
        variant: of the SAM without an adapter, whose name that is.
        checkpoint: weights of SAMs of that variant; None for those that come with ``vit_mini``.
        image_size: of the SAM without an adapter, in pixels; None for its own.
        device: None for a GPU if there is one.
        precision: as in :class:`~monai_cobot.networks.PromptableSam`.
        backend: as in :func:`~monai_cobot.networks.accelerate`.

    Raises:
        ValueError: the variant has no weights in the package, and no checkpoint is given; or there is no such device.
    """

    def __init__(
        self,
        folder: Path,
        variant: str = PACKAGED_VARIANT,
        checkpoint: Path | None = None,
        image_size: int | None = None,
        device: str | None = None,
        precision: str = "auto",
        backend: str = "eager",
    ) -> None:
        if checkpoint is None and variant != PACKAGED_VARIANT:
            raise ValueError(f"{variant} has no weights in this package: name their file as sam_checkpoint.")
        self.folder = folder
        self.variant = variant
        self.checkpoint = checkpoint
        self.image_size = image_size
        if device is not None:
            check_options(device=device)
        self._sams = SamCollection({variant: checkpoint}, device, precision, backend)
        self.device = self._sams.device
        self._in_use: dict[str, AdaptedSam] = {}
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._read: dict[Path, tuple[list[int], AdapterConfig]] = {}

    def prepare(self) -> None:
        """Read the SAM's weights, so that what cannot work says so before a request does.

        Raises:
            ValueError, OSError: the SAM cannot be built.
            BackendError: the backend that was asked for cannot run it.
        """
        self._sams.prepare(self.variant, self.image_size)

    def names(self) -> dict[str, AdapterConfig | None]:
        """Name -> configuration of each adapter that can be used, by name; last the SAM itself, with None."""
        found: dict[str, AdapterConfig | None] = {}
        for file in sorted(self.folder.glob(f"*/{CONFIG_FILE}")):
            name = file.parent.name
            try:
                config = self._config(name)
            except AdapterError as error:
                if str(error) not in self._reported:  # the folder is looked at often
                    self._reported.add(str(error))
                    logger.warning("%s is left out: %s", name, error)
                continue
            found[name] = config
        return {**found, self.variant: None}

    def load(self, name: str) -> AdaptedSam:
        """What segments under a name; an adapter that is loaded already, and did not change since, costs nothing.

        Raises:
            KeyError: there is none of this name.
            AdapterError: it cannot be used; says why.
            ValueError, OSError: its SAM cannot be built.
            BackendError: the backend that was asked for cannot run it.
        """
        if name == self.variant:
            return self._sams.bare(self.variant, self.image_size)
        if Path(name).name != name or not (self.folder / name / CONFIG_FILE).is_file():
            raise KeyError(name)
        self._config(name)
        model = self._sams.load(self.folder / name)
        with self._lock:
            before = self._in_use.get(name)
            self._in_use[name] = model
        if before is not None and before is not model:
            self._sams.forget(before)
        return model

    def _config(self, name: str) -> AdapterConfig:
        if name == self.variant:
            raise AdapterError(f"an adapter cannot have the name of the SAM, {name}; give its folder another name.")
        config = self._read_config(self.folder / name)
        if config.variant not in self._sams.checkpoints:
            raise AdapterError(
                f"it is for {config.variant}, whose weights are not here: start the server with sam_variant "
                f"{config.variant} and its sam_checkpoint."
            )
        if config.classes is not None:
            raise AdapterError("it segments classes without prompts, and the server's models take prompts.")
        return config

    def _read_config(self, folder: Path) -> AdapterConfig:
        """What an adapter is; read anew where one of its files changed, for every request looks at all adapters."""
        stamp = stamp_of(*(folder / name for name in (CONFIG_FILE, WEIGHTS_FILE) if (folder / name).is_file()))
        known = self._read.get(folder)
        if known is None or known[0] != stamp:
            known = self._read[folder] = (stamp, read_adapter_config(folder))
        return known[1]
