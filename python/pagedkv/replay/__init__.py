"""Replay of request traces through the manager of many sequences, with and without data.

`replay(trace, config)` is an engine's whole job, `replay_policies` compares eviction policies;
`docs/replay.md` gives the formula of each figure.
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
from pagedkv.replay.managed import ManagedSequence, ManagedStorage
from pagedkv.replay.policies import PolicyResult, check_policies, replay_policies
from pagedkv.replay.policy_report import policies_as_dict, policies_as_text
from pagedkv.replay.prompts import PromptBlocks, number_blocks, prompts_of
from pagedkv.replay.report import as_dict, as_text
from pagedkv.replay.shape import CacheShape, read_model_config
from pagedkv.replay.storage import PagedStorage, Storage
from pagedkv.replay.tokens import RequestTokens
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
    "ManagedSequence",
    "ManagedStorage",
    "Mismatch",
    "PagedStorage",
    "PolicyResult",
    "PromptBlocks",
    "Rejection",
    "ReplayConfig",
    "ReplayError",
    "ReplayResult",
    "Request",
    "RequestTokens",
    "RunFigures",
    "Storage",
    "Trace",
    "TraceError",
    "VerifyingStorage",
    "as_dict",
    "as_text",
    "check_policies",
    "make_workload",
    "number_blocks",
    "parse_trace",
    "policies_as_dict",
    "policies_as_text",
    "prompts_of",
    "read_model_config",
    "read_trace",
    "replay",
    "replay_policies",
    "split_requests",
]
