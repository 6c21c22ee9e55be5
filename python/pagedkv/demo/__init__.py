"""A small serving engine: many prompts at once through `KVCacheManager` and `pagedkv.ops`.

`serve` runs requests and counts, `prove` compares their tokens with those of the same model with a
plain dense cache. `pagedkv demo` is both; `docs/demo.md` says what its figures are.
"""

from pagedkv.demo.engine import Engine, EngineConfig, Progress, Request
from pagedkv.demo.job import DemoConfig, DemoResult, run_demo
from pagedkv.demo.proof import Difference, Proof, prove
from pagedkv.demo.report import as_dict, as_text

__all__ = [
    "DemoConfig",
    "DemoResult",
    "Difference",
    "Engine",
    "EngineConfig",
    "Progress",
    "Proof",
    "Request",
    "as_dict",
    "as_text",
    "prove",
    "run_demo",
]
