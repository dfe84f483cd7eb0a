"""``python -m lowmem_bp`` is the command ``lowmem-bp``."""

from lowmem_bp.cli import main

if __name__ == "__main__":
    main()
