"""An engine without a network, for tests: what is bright in the box is the object."""

import threading

import numpy as np
from COBOTLib.engines.base import AdapterInfo, Engine, EngineError
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.prompts import PropagationPrompt, RegionPrompt


class ThresholdEngine(Engine):
    """Voxels above 100 in the box; a negative point takes its row of voxels out.

    Where ``go_on`` is not set, a job waits until it is cancelled, or, ``deaf``, until ``go_on`` is set.
    """

    def __init__(self):
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        self.deaf = False
        self.closed = False
        self.scans, self.presets = [], []

    def test(self, job):
        return "threshold"

    def adapters(self, job):
        return [AdapterInfo("bright", "Bright")]

    def segment(self, scan, prompt, adapter, preset, job):
        self.scans.append(scan)
        self.presets.append(preset)
        if adapter != "bright":
            raise EngineError(f"There is no adapter {adapter}. Choose another.")
        boxes = prompt.boxes if isinstance(prompt, PropagationPrompt) else [prompt.box or _slice_of(scan, prompt)]
        box = boxes[0]
        for other in boxes[1:]:
            box = box.union(other)
        for done in range(10):
            if not self.deaf:
                job.report(done, 10)
            self.reached.set()
            while not self.go_on.wait(0.005):
                if not self.deaf:
                    job.check()
        bright = scan.array[box.slices] > 100
        if not isinstance(prompt, RegionPrompt | PropagationPrompt):
            for _, j, k in prompt.negative:
                bright[k - box.low[2], j - box.low[1]] = False
        return VoxelMask(box, np.ascontiguousarray(bright)).cropped()

    def close(self):
        self.closed = True


def _slice_of(scan, prompt):
    low, high = [0, 0, 0], list(scan.grid.dimensions)
    low[prompt.axis], high[prompt.axis] = prompt.index, prompt.index + 1
    return VoxelBox(tuple(low), tuple(high))
