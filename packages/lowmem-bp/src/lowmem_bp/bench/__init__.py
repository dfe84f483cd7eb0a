"""What ``lowmem-bp bench`` measures: one block, stock torch beside all that saves memory.

``blocks`` has the models, ``competitors`` what is done to them, ``comparison`` takes the figures of
all in turn, ``peak`` those of memory, ``results`` and ``picture`` show them.
"""

from lowmem_bp.bench.blocks import BLOCKS, CASES, TUNINGS, Case
from lowmem_bp.bench.comparison import Measurement, Spread, held, measure, models, spread
from lowmem_bp.bench.competitors import COMPETITORS, DEFAULT, MODES
from lowmem_bp.bench.results import table, write

__all__ = [
    "BLOCKS",
    "CASES",
    "COMPETITORS",
    "DEFAULT",
    "MODES",
    "TUNINGS",
    "Case",
    "Measurement",
    "Spread",
    "held",
    "measure",
    "models",
    "spread",
    "table",
    "write",
]
