"""Attention of others on the CPU. Each is imported only when it is asked for, and installed beside
pagedkv by who asks: docs/performance.md says how."""

from __future__ import annotations

from pagedkv.bench.attention.case import Case
from pagedkv.bench.attention.entrant import Entrant
from pagedkv.bench.rivals import load

__all__ = ["RIVALS", "enter", "version"]

_MODULES = {
    "OpenVINO": ("openvino", "OpenVino"),
    "ONNX Runtime": ("onnxruntime", "OnnxRuntime"),
    "torch SDPA": ("torch", "Sdpa"),
    "torch flex": ("torch", "Flex"),
    "llama.cpp": ("ggml", "Ggml"),
}
RIVALS = tuple(_MODULES)


def version(rival: str) -> str:
    """Raises ImportError unless the rival and all that it needs is installed."""
    module, _ = _MODULES[rival]
    found: str = load(f"{__name__}.{module}", "version")()
    return found


def enter(rival: str, case: Case) -> Entrant:
    """Raises SkipError where the rival has nothing for such a case."""
    module, name = _MODULES[rival]
    made: Entrant = load(f"{__name__}.{module}", name)(case)
    return made
