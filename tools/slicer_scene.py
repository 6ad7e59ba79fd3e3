"""Slicer's MRML core, with as much around it as ``slicer.util`` asks for.

The wheel ``slicer-core`` has node classes, module logics and ``slicer.util``; the application, which holds the scene
and the modules, is not in it. ``opened`` stands in for that, with Slicer's own objects. The tests use it too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """``slicer`` with an empty scene and the logics of the modules that COBOT uses, which are gone at the end."""
    import slicer

    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    modules = SimpleNamespace()
    logics = []
    for name, kind in {
        "colors": slicer.vtkSlicerColorLogic,
        "volumes": slicer.vtkSlicerVolumesLogic,
        "segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
        "markups": slicer.vtkSlicerMarkupsLogic,
    }.items():
        logic = kind()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.capitalize(), logic)
        logics.append(logic)
        setattr(modules, name, SimpleNamespace(logic=lambda logic=logic: logic))
    slicer.mrmlScene, slicer.modules = scene, modules
    slicer.app = SimpleNamespace(applicationLogic=lambda: application)
    try:
        yield slicer
    finally:
        scene.Clear(True)
        for logic in logics:
            logic.SetMRMLScene(None)
        application.SetMRMLScene(None)
        del slicer.mrmlScene, slicer.modules, slicer.app
