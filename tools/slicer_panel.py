"""COBOT.py without the application: stand-ins for Qt, CTK and the scripted module's base classes; MRML is Slicer's own.

A widget here keeps what is set on it and calls what is connected to it; what Qt draws or does by itself is not there.
The tests use it. ``python tools/slicer_panel.py`` says how long the module takes to be imported and set up.
"""

# ruff: noqa: N802, N815 - Qt's and Slicer's names

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

MODULE = pathlib.Path(__file__).resolve().parents[1] / "SlicerCOBOT"


class Widget:
    """Any widget of a panel, a timer or a shortcut."""

    def __init__(self, *_: Any) -> None:
        self.__dict__.update(enabled=True, visible=True, text="", range=(0, 0), value=0, active=False, currentIndex=-1)
        self.slots: list[Any] = []
        self.items: list[tuple[str, Any]] = []
        self.called: list[str] = []

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def currentData(self) -> Any:
        return self.items[self.currentIndex][1] if self.currentIndex >= 0 else None

    def connect(self, signal: str, slot: Any) -> None:
        self.slots.append(slot)

    def click(self) -> None:
        """As Qt's buttons: nothing where it is disabled."""
        if self.enabled:
            self.emit()

    def emit(self) -> None:
        for slot in self.slots:
            slot()

    def choose(self, index: int) -> None:
        """As a user does in a list."""
        self.currentIndex = index
        self.emit()

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False

    def clear(self) -> None:
        self.items, self.currentIndex = [], -1

    def addItem(self, text: str, data: Any) -> None:
        self.items.append((text, data))
        self.currentIndex = max(0, self.currentIndex)

    def findData(self, data: Any) -> int:
        return next((index for index, item in enumerate(self.items) if item[1] == data), -1)

    def setItemData(self, *_: Any) -> None:
        pass

    def setRange(self, low: int, high: int) -> None:
        self.range = (low, high)

    def setValue(self, value: int) -> None:
        self.value = value

    def addWidget(self, widget: Any) -> None:
        pass

    setParent = setMRMLScene = setSegmentationNode = setSourceVolumeNode = setMRMLSegmentEditorNode = addWidget

    def setActiveEffect(self, effect: Any) -> None:
        self.called.append(f"setActiveEffect({effect})")

    def removeViewObservations(self) -> None:
        self.called.append("removeViewObservations()")


class Base:
    """``ScriptedLoadableModule`` and its logic and widget, as far as they are used."""

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.layout = Widget()

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(MODULE / "Resources" / name)

    def getParameterNode(self) -> Any:
        return None


class Observing:
    """``VTKObservationMixin``, which also takes parameter nodes."""

    def __init__(self) -> None:
        self.observations: list[tuple[Any, int, Any]] = []

    def addObserver(self, node: Any, event: Any, method: Any) -> None:
        if isinstance(node, Parameters):
            node.methods.append(method)
        else:
            self.observations.append((node, node.AddObserver(event, method), method))

    def removeObserver(self, node: Any, event: Any, method: Any) -> None:
        node.methods.remove(method)

    def removeObservers(self) -> None:
        for node, tag, _ in self.observations:
            node.RemoveObserver(tag)


class Parameters:
    """What ``parameterNodeWrapper`` makes of a class: its fields, and a call for each change. A node that was removed
    from the scene is none any more."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields=fields, methods=[])

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__["fields"][name]
        return None if hasattr(value, "GetScene") and value.GetScene() is None else value

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.fields
        self.fields[name] = value
        for method in list(self.methods):
            method()

    def connectGui(self, ui: Any) -> int:
        return 0

    def disconnectGui(self, tag: int) -> None:
        pass


def _wrapper(kind: type) -> Any:
    fields = {
        name: getattr(kind, name, pathlib.Path() if annotation is pathlib.Path else None)
        for name, annotation in kind.__annotations__.items()
    }
    return lambda node: Parameters(dict(fields))


def _load_ui(path: str) -> Widget:
    panel = Widget()
    panel.named = {item.get("name"): Widget() for item in ET.parse(path).iter("widget")}
    return panel


@contextlib.contextmanager
def stood_in(slicer: Any) -> Iterator[ModuleType]:
    """The module COBOT, imported; ``slicer`` comes from ``slicer_scene.opened``."""
    qt = SimpleNamespace(
        QTimer=Widget, QShortcut=Widget, QKeySequence=Widget, Qt=SimpleNamespace(ToolTipRole=3), __name__="qt"
    )
    names = {
        "qt": qt,
        "slicer.i18n": SimpleNamespace(tr=lambda text: text, translate=lambda context, text: text),
        "slicer.parameterNodeWrapper": SimpleNamespace(parameterNodeWrapper=_wrapper),
        "slicer.ScriptedLoadableModule": SimpleNamespace(
            ScriptedLoadableModule=Base,
            ScriptedLoadableModuleLogic=Base,
            ScriptedLoadableModuleTest=Base,
            ScriptedLoadableModuleWidget=Base,
        ),
    }
    util = {
        "VTKObservationMixin": Observing,
        "loadUI": _load_ui,
        "childWidgetVariables": lambda panel: SimpleNamespace(**panel.named),
        "mainWindow": lambda: None,
        "confirmOkCancelDisplay": lambda text: True,
        "tryWithErrorDisplay": lambda *_, **__: contextlib.nullcontext(),
    }
    before = {name: getattr(slicer.util, name, None) for name in util}
    sys.modules.update(names)
    for name, value in util.items():
        setattr(slicer.util, name, value)
    spec = importlib.util.spec_from_file_location("COBOT", MODULE / "COBOT.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for name in names:
            del sys.modules[name]
        for name, value in before.items():
            setattr(slicer.util, name, value)


def main() -> None:
    """Print what of the time until the panel is there is the module's own."""
    import slicer.util
    import vtk  # noqa: F401 - as numpy and slicer.util, loaded by the application before any module
    from slicer_scene import opened

    sys.path.insert(0, str(MODULE))
    with opened() as slicer:
        slicer.mrmlScene.AddNode(slicer.vtkMRMLCrosshairNode())
        begun = time.perf_counter()
        with stood_in(slicer) as module:
            imported = time.perf_counter()
            panel = module.COBOTWidget()
            panel.setup()
            done = time.perf_counter()
            panel.cleanup()
    print(f"import: {imported - begun:.3f} s, set-up: {done - imported:.3f} s")


if __name__ == "__main__":
    main()
