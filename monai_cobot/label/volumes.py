"""The volumes that clients work on: each is read once, and its embeddings are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from monai_cobot.data import Volume, read_volume
from monai_cobot.files import stamp_of
from monai_cobot.inferers import AdaptedSam, EmbeddingCache, VolumeSession

__all__ = ["OpenVolumes", "identity"]

_Identity = tuple[str, tuple[int, ...]]

_SESSIONS = 4
_LABELS = 32767


@dataclass
class _Opened:
    """A volume, and its sessions by what segments; a session is never switched to another model, since two clients
    may use it at once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    volume: Volume | None = None
    sessions: OrderedDict[tuple[AdaptedSam, str | None], VolumeSession] = field(default_factory=OrderedDict)
    closed: bool = False

    def close(self) -> None:
        with self.lock:
            self.closed = True
            for session in self.sessions.values():
                session.close()


class OpenVolumes:
    """Sessions over the volumes that were asked about last. Any number of threads may use it.

    Args:
        cache: where embeddings of all of them are kept.
        most: volumes that are kept in memory.
        look_ahead: as in :class:`~monai_cobot.inferers.VolumeSession`.
    """

    def __init__(self, cache: EmbeddingCache, most: int = 4, look_ahead: bool = True) -> None:
        self._cache = cache
        self._most = most
        self._look_ahead = look_ahead
        self._opened: OrderedDict[_Identity, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._numbers = count()

    def session(self, path: Path, model: AdaptedSam, preset: str | None = None) -> VolumeSession:
        """The session over a file's volume with a model; a file that was changed is read again.

        Raises:
            ValueError, OSError: the file cannot be read, or for an unknown preset.
        """
        while True:
            opened = self._newest(identity(path))
            with opened.lock:
                if opened.closed:  # for others, while this one waited for it
                    continue
                if opened.volume is None:
                    opened.volume = read_volume(path)
                if (model, preset) not in opened.sessions:
                    opened.sessions[model, preset] = VolumeSession(
                        opened.volume, model, preset, self._cache, self._look_ahead, keep_undo=False
                    )
                opened.sessions.move_to_end((model, preset))
                while len(opened.sessions) > _SESSIONS:
                    opened.sessions.popitem(last=False)[1].close()
                return opened.sessions[model, preset]

    def _newest(self, key: _Identity) -> _Opened:
        """What was asked about last; what was not for longest is closed, when nobody works on it."""
        with self._lock:
            opened = self._opened.setdefault(key, _Opened())
            self._opened.move_to_end(key)
            closed = [self._opened.popitem(last=False)[1] for _ in range(len(self._opened) - self._most)]
        for other in closed:
            other.close()
        return opened

    def new_label(self) -> int:
        """A number for an object that no other request has."""
        return 1 + next(self._numbers) % _LABELS


def identity(path: Path) -> _Identity:
    """Says which content a file has, or a folder of files.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return str(path), tuple(stamp_of(*files))
