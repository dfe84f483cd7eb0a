"""Write every generated part of the documentation anew, or say which are out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Python puts this folder first, where go4align.py would hide the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from tables import evidence, go4align, lare, lemae, lowmem_bp, pictures
    from tables.common import ROOT, filled

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if one is old")
    options = parser.parse_args()
    old = []
    for module in (lowmem_bp, go4align, lare, lemae, evidence):
        for name in module.PAGES:
            page = ROOT / name
            text = page.read_text(encoding="utf-8")
            new = filled(text, module.table)
            if new != text:
                old.append(name)
                if not options.check:
                    page.write_text(new, encoding="utf-8")
    if not options.check:
        pictures.draw()
    elif old:
        sys.exit(f"out of date, run `python -m nox -s tables`: {', '.join(old)}")


if __name__ == "__main__":
    main()
