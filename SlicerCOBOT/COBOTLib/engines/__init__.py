"""What segments: in process, or a MONAI Label server. Both are an ``Engine``."""
