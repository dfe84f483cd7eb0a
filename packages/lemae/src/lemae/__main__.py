"""``python -m lemae`` is the command ``lemae``."""

from lemae.cli import main

if __name__ == "__main__":
    main()
