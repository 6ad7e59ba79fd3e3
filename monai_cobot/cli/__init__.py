"""The command line ``cobot``: thin, every command a call into the package."""

from monai_cobot.cli.app import app, main

__all__ = ["app", "main"]
