"""`python -m pagedkv.bench`: how fast the library is, each figure beside a floor or a rival that is
timed in turns with it, its result checked first."""

from pagedkv.bench.calls import CALLS
from pagedkv.bench.copies import COPIES
from pagedkv.bench.figure import Bench, Contest, Figure, Measured, Scale
from pagedkv.bench.manager import MANAGER
from pagedkv.bench.timing import measure

__all__ = ["BENCHES", "Bench", "Contest", "Figure", "Measured", "Scale", "measure"]

BENCHES: tuple[Bench, ...] = (*COPIES, *CALLS, *MANAGER)
