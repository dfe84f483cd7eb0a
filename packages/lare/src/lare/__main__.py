"""``python -m lare`` is the command ``lare``."""

from lare.cli import main

if __name__ == "__main__":
    main()
