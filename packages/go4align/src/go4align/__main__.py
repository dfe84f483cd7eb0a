"""``python -m go4align`` is the command ``go4align``."""

from go4align.cli import main

if __name__ == "__main__":
    main()
