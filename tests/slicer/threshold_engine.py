"""An engine without a network, for tests: what is bright in the box is the object."""

import threading

import numpy as np
from COBOTLib.engines.base import AdapterInfo, Engine, EngineError
from COBOTLib.grid import VoxelMask
from COBOTLib.prompts import PropagationPrompt, RegionPrompt


class ThresholdEngine(Engine):
    """Voxels above 100 in the box; a negative point takes its row of voxels out.

    ``hold`` lets a job wait, slice by slice, until it is cancelled or ``go_on`` is set.
    """

    def __init__(self):
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        self.scans = []

    def test(self, job):
        return "threshold"

    def adapters(self, job):
        return [AdapterInfo("bright", "Bright")]

    def segment(self, scan, prompt, adapter, preset, job):
        self.scans.append(scan)
        if adapter != "bright":
            raise EngineError(f"There is no adapter {adapter}. Choose another.")
        boxes = prompt.boxes if isinstance(prompt, PropagationPrompt) else [prompt.box]
        box = boxes[0]
        for other in boxes[1:]:
            box = box.union(other)
        for done in range(10):
            job.report(done, 10)
            self.reached.set()
            while not self.go_on.wait(0.005):
                job.check()
        bright = scan.array[box.slices] > 100
        if not isinstance(prompt, RegionPrompt | PropagationPrompt):
            for _, j, k in prompt.negative:
                bright[k - box.low[2], j - box.low[1]] = False
        return VoxelMask(box, np.ascontiguousarray(bright)).cropped()
