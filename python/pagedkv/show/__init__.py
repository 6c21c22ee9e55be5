"""A map of a pool: who holds which block, what is cached, what is free.

`pool_map(manager)` makes it, `as_text` and `draw` show it; `pagedkv show` does both for a trace.
"""

from pagedkv.show.plot import draw, map_figure
from pagedkv.show.pool_map import BlockState, PoolMap, pool_map
from pagedkv.show.replayed import ReplayedPool, replayed_pool
from pagedkv.show.text import as_text

__all__ = [
    "BlockState",
    "PoolMap",
    "ReplayedPool",
    "as_text",
    "draw",
    "map_figure",
    "pool_map",
    "replayed_pool",
]
