"""SAM with an adapter in Slicer's own Python, through ``monai_cobot``."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..grid import VoxelBox, VoxelMask
from ..jobs import Cancelled, Job
from ..packages import missing
from ..prompts import Prompt, RegionPrompt, SlicePrompt
from .base import AdapterInfo, Engine, EngineError, Scan

# Planes of oblique views are scans too: a few are kept, so that a second box on the same plane is fast.
_SESSIONS = 4
_BARE = "bare "  # in front of the variant: the id of a SAM without an adapter


class InProcessEngine(Engine):
    """Runs on this computer. PyTorch and SAM are loaded by the first call, embeddings of slices are kept.

    Adapters for ``vit_mini`` can be used always, its weights come with ``monai_cobot``; others with their SAM's file.

    Args:
        checkpoint: the file of a SAM's weights, of any variant; None for none.
        adapters_folder: where adapter folders lie; None for none.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; None for a GPU of NVIDIA's if there is one, else the processor.
    """

    def __init__(
        self, checkpoint: Path | None = None, adapters_folder: Path | None = None, device: str | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._folder = adapters_folder
        self._device = device
        self._sams: Any = None
        self._cache: Any = None
        self._sessions: OrderedDict[str, tuple[str | None, Any]] = OrderedDict()  # scan key -> preset, session
        self._windows: dict[tuple[str, str | None], str] = {}  # volume's key and preset -> its range as a preset

    def test(self, job: Job) -> str:
        self._open(job)
        import torch

        import monai_cobot

        variant = next(iter(self._sams.checkpoints))
        self._model(_BARE + variant, job)
        return f"monai_cobot {monai_cobot.__version__}, PyTorch {torch.__version__}: {variant} on {self._sams.device}."

    def adapters(self, job: Job) -> list[AdapterInfo]:
        self._open(job)
        from monai_cobot.peft import read_adapter_config
        from monai_cobot.peft.io import CONFIG_FILE, AdapterError

        infos = []
        if self._folder is not None:
            if not self._folder.is_dir():
                raise EngineError(f"There is no folder {self._folder}. Choose the folder that holds the adapters.")
            # the folder of one adapter, or the folder of several
            for file in sorted([*self._folder.glob(CONFIG_FILE), *self._folder.glob(f"*/{CONFIG_FILE}")]):
                job.check()
                try:
                    config = read_adapter_config(file.parent)
                except AdapterError:
                    continue  # a damaged one must not hide the others; choosing it by its folder says what is wrong
                if config.classes is not None:
                    continue  # it segments classes without prompts
                labels = ", ".join(config.labels) or "not said"
                about = f"{config.method} on {config.variant}; labels: {labels}"
                infos.append(AdapterInfo(str(file.parent), file.parent.name, about))
        bare = [
            AdapterInfo(_BARE + variant, f"{variant}, as it is", "SAM without an adapter")
            for variant in self._sams.checkpoints
        ]
        return infos + bare

    def segment(self, scan: Scan, prompt: Prompt, adapter: str, preset: str | None, job: Job) -> VoxelMask | None:
        from monai_cobot import inferers

        session = self._session(scan, adapter, preset, job)
        token = inferers.CancelToken()
        try:
            with job.stopped_by(token.cancel):
                inferers.segment_prompt(session, _voxel_prompt(prompt), 1, token, job.report)
            found = session.crop(1)
        except inferers.Cancelled:
            raise Cancelled from None
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise EngineError(_explained(error)) from error
        finally:
            if 1 in session.objects:
                session.remove(1)
        if found is None:
            return None
        region, array = found  # (I, J, K)
        return VoxelMask(VoxelBox(region.low, region.high), np.ascontiguousarray(array.transpose(2, 1, 0)))

    def forget_scans(self) -> None:
        for _, session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._windows.clear()
        if self._cache is not None:
            self._cache.clear()

    def close(self) -> None:
        super().close()
        self._sams = self._cache = None

    def _open(self, job: Job) -> None:
        """Load what SAM needs, once, and see which SAMs there are."""
        if self._cache is not None:
            return
        try:
            from monai_cobot.inferers import EmbeddingCache, SamCollection
            from monai_cobot.networks.checkpoint import checkpoint_variant
        except ImportError as error:
            raise EngineError(
                f'Python packages are missing ({error}). Click "Install packages" in the section "Setup".'
                if missing()
                else f"Python packages are damaged ({error}). Restart Slicer; if that does not help, type "
                'slicer.util.pip_uninstall("monai-cobot") into its Python console, and install them again.'
            ) from error
        job.check()
        try:
            checkpoints = {} if self._checkpoint is None else {checkpoint_variant(self._checkpoint): self._checkpoint}
        except (ValueError, OSError) as error:
            raise EngineError(f"SAM could not be loaded: {error}") from error
        self._sams = SamCollection(checkpoints, self._device)
        self._cache = EmbeddingCache()

    def _model(self, adapter: str, job: Job) -> Any:
        job.check()
        bare = adapter.startswith(_BARE)
        try:
            return self._sams.bare(adapter.removeprefix(_BARE)) if bare else self._sams.load(adapter)
        except KeyError as error:
            raise EngineError(
                f"This adapter needs the weights of SAM's {error.args[0]}. Choose their file under "
                '"SAM weights" in the section "Setup"; "Get ViT-B" downloads those of vit_b.'
            ) from error
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            what = "SAM" if bare else "The adapter"
            raise EngineError(f"{what} could not be loaded: {_explained(error)}") from error

    def _session(self, scan: Scan, adapter: str, preset: str | None, job: Job) -> Any:
        """The session of a scan, with its embeddings, using an adapter from now on."""
        from monai_cobot.inferers import VolumeSession

        self._open(job)
        model = self._model(adapter, job)
        job.check()
        before, session = self._sessions.pop(scan.key, (None, None))
        try:
            if scan.volume is not None:
                preset = self._window(scan.volume, preset or model.preset)
            if session is None:
                session = VolumeSession(_volume(scan), model, preset, self._cache, keep_undo=False)
            elif before != preset:
                session.close()
                session = VolumeSession(session.volume, model, preset, self._cache, keep_undo=False)
            else:
                session.use(model)
        except (ValueError, MemoryError) as error:
            raise EngineError(f'"{scan.name}" cannot be segmented: {_explained(error)}') from error
        self._sessions[scan.key] = preset, session
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)[1][1].close()
        return session

    def _window(self, volume: Scan, preset: str | None) -> str:
        """The range that a preset finds in a whole volume, as a preset for planes that are cut out of it."""
        from monai_cobot.inferers import guess_preset
        from monai_cobot.transforms import intensity_range

        key = volume.key, preset
        if key not in self._windows:
            low, high = intensity_range(volume.array, preset or guess_preset(_volume(volume)))
            self._windows[key] = f"window:{low!r},{high!r}"
        return self._windows[key]


def _volume(scan: Scan) -> Any:
    """As ``monai_cobot`` reads it."""
    from monai_cobot.data import volume_from_array

    return volume_from_array(scan.array.transpose(2, 1, 0), scan.grid.ijk_to_ras, scan.name)


def _explained(error: Exception) -> str:
    """What went wrong, in a sentence, and what to do where memory was short: of PyTorch's errors, the first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, MemoryError) or "out of memory" in lines[0] or "allocate memory" in str(error):
        return (
            f"The memory is full ({lines[0]}). Close other volumes and programs, choose an adapter of a smaller SAM, "
            "or run on a server."
        )
    return lines[0] if isinstance(error, RuntimeError) else "\n".join(lines)


def _voxel_prompt(prompt: Prompt) -> Any:
    """As ``monai_cobot`` is told it."""
    from monai_cobot.inferers import Region, VoxelPrompt

    def region(box: VoxelBox | None) -> Any:
        return None if box is None else Region(box.low, box.high)

    if isinstance(prompt, SlicePrompt):
        return VoxelPrompt(prompt.axis, prompt.index, region(prompt.box), prompt.positive, prompt.negative)
    if isinstance(prompt, RegionPrompt):
        return VoxelPrompt(prompt.axis, box=region(prompt.box))
    return VoxelPrompt(prompt.axis, boxes=tuple(map(region, prompt.boxes)), reach=prompt.reach)
