"""Replay of request traces through the allocator, the block tables and the caches.

`replay(trace, config)` is the whole job; `docs/replay.md` gives the formula of each figure.
"""

from pagedkv.replay.engine import Engine
from pagedkv.replay.errors import ReplayError, TraceError
from pagedkv.replay.figures import History, RunFigures
from pagedkv.replay.job import (
    DEFAULT_BLOCKS,
    Rejection,
    ReplayConfig,
    ReplayResult,
    replay,
    split_requests,
)
from pagedkv.replay.report import as_dict, as_text
from pagedkv.replay.shape import CacheShape, read_model_config
from pagedkv.replay.storage import PagedStorage, Storage
from pagedkv.replay.trace import BrokenLine, Request, Trace, parse_trace, read_trace
from pagedkv.replay.verify import Mismatch, VerifyingStorage
from pagedkv.replay.workload import DEFAULT_REQUESTS, make_workload

__all__ = [
    "DEFAULT_BLOCKS",
    "DEFAULT_REQUESTS",
    "BrokenLine",
    "CacheShape",
    "Engine",
    "History",
    "Mismatch",
    "PagedStorage",
    "Rejection",
    "ReplayConfig",
    "ReplayError",
    "ReplayResult",
    "Request",
    "RunFigures",
    "Storage",
    "Trace",
    "TraceError",
    "VerifyingStorage",
    "as_dict",
    "as_text",
    "make_workload",
    "parse_trace",
    "read_model_config",
    "read_trace",
    "replay",
    "split_requests",
]
