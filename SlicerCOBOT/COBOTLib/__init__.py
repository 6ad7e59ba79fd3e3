"""What SlicerCOBOT does, without its widgets.

Neither Qt nor CTK is imported here, so that all of it is tested on Slicer's MRML core alone. Only the standard library
and NumPy are imported at once; VTK, Slicer and what is heavy where they are needed.
"""
