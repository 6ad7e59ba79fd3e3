"""The MONAI Label server: adapters as models that take prompts, training from its labels, and what to label next.

``cobot serve --studies FOLDER`` starts it. Only :mod:`~monai_cobot.label.tasks`, :mod:`~monai_cobot.label.studies`,
:mod:`~monai_cobot.label.endpoints` and the app itself, ``app/main.py``, need the package ``monailabel``.
"""
