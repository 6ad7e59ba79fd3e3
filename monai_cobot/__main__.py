"""``python -m monai_cobot`` is ``cobot``."""

from monai_cobot.cli import main

if __name__ == "__main__":
    main()
