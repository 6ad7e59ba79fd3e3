"""MONAI Label's web application, for its own command where pydicom is 3::

    python -m monailabel.main start_server --uvicorn_app monai_cobot.label.web:app ...

MONAI Label imports the application before it looks for the app's folder, which is too late to help it with pydicom.
"""

from monai_cobot.label.server import accept_pydicom_3

accept_pydicom_3()

from monailabel.app import app  # noqa: E402

__all__ = ["app"]
