"""Fine-tune the Segment Anything Model on medical scans with orchestrated adapters, for MONAI and 3D Slicer."""

from importlib.metadata import version

__version__ = version("monai-cobot")
