"""llama.cpp's flash attention: the library ggml within llama-cpp-python, over contiguous keys and
values, one node of its graph a sequence."""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pagedkv.bench.attention.case import Case, Floats, Raw
from pagedkv.bench.attention.entrant import SkipError

__all__ = ["Ggml", "version"]

# ggml.h: enum ggml_type
_TYPES = {"float32": 0, "float16": 1, "int4": 2, "int8": 8, "bfloat16": 30}


def version() -> str:
    _libraries()
    return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"


class _Memory(ctypes.Structure):
    """ggml.h: ggml_init_params"""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError("No module named 'llama_cpp'", name="llama_cpp")
    folder = Path(spec.origin).parent / "lib"
    base, cpu = (
        ctypes.CDLL(str(folder / f"libggml-{part}.so"), mode=ctypes.RTLD_GLOBAL)
        for part in ("base", "cpu")
    )
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    signatures: Sequence[tuple[ctypes.CDLL, str, Any, Sequence[Any]]] = (
        (base, "ggml_init", pointer, [_Memory]),
        (base, "ggml_free", None, [pointer]),
        (base, "ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, *[long] * 4]),
        (base, "ggml_flash_attn_ext", pointer, [*[pointer] * 5, *[ctypes.c_float] * 3]),
        (base, "ggml_get_data", pointer, [pointer]),
        (base, "ggml_nbytes", ctypes.c_size_t, [pointer]),
        (base, "ggml_new_graph", pointer, [pointer]),
        (base, "ggml_build_forward_expand", None, [pointer, pointer]),
        (
            base,
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            [ctypes.c_int, pointer, pointer, long, long, long, pointer],
        ),
        (base, "ggml_backend_graph_compute", ctypes.c_int, [pointer, pointer]),
        (base, "ggml_backend_free", None, [pointer]),
        (cpu, "ggml_cpu_init", None, []),
        (cpu, "ggml_backend_cpu_init", pointer, []),
        (cpu, "ggml_backend_cpu_set_n_threads", None, [pointer, ctypes.c_int]),
    )
    for library, name, result, arguments in signatures:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    cpu.ggml_cpu_init()
    return base, cpu


class Ggml:
    """Decode alone. Queries and results are float32; 8 and 4 bits are q8_0 and q4_0."""

    note = ""

    def __init__(self, case: Case) -> None:
        point = case.point
        if point.is_prefill:
            raise SkipError
        if point.head_dim % 32 and point.is_integer:
            raise SkipError("scales are of 32 elements")
        self.base, self.cpu = _libraries()
        self.kind = _TYPES[point.cache]
        # Rows of q4_0 and q8_0 are never larger than of 16 and 32 bits; metadata beside.
        size = case.raw_k.nbytes + case.raw_v.nbytes + 4 * case.q.nbytes + (64 << 20)
        self.memory = np.empty(size, np.uint8)
        self.context = self.base.ggml_init(_Memory(size, self.memory.ctypes.data, False))
        self.graph = self.base.ggml_new_graph(self.context)
        self.backend = self.cpu.ggml_backend_cpu_init()
        self.shape = case.q.shape
        self.outs = [self._node(case, i) for i in range(point.num_seqs)]

    def _node(self, case: Case, i: int) -> int:
        point, base = case.point, self.base
        rows = (point.head_dim, point.num_tokens, point.num_kv_heads, 1)
        q = base.ggml_new_tensor_4d(self.context, 0, point.head_dim, 1, point.num_q_heads, 1)
        k = base.ggml_new_tensor_4d(self.context, self.kind, *rows)
        v = base.ggml_new_tensor_4d(self.context, self.kind, *rows)
        self._store(q, case.q[i])
        for tensor, raw in ((k, case.raw_k[i]), (v, case.raw_v[i])):
            if point.is_integer:
                self._quantise(tensor, raw)
            else:
                self._store(tensor, raw)
        out = base.ggml_flash_attn_ext(self.context, q, k, v, None, point.scale, 0, 0)
        base.ggml_build_forward_expand(self.graph, out)
        made: int = out
        return made

    def _store(self, tensor: int, raw: Raw) -> None:
        if self.base.ggml_nbytes(tensor) != raw.nbytes:
            raise AssertionError("ggml has another size for the same elements")
        ctypes.memmove(self.base.ggml_get_data(tensor), raw.ctypes.data, raw.nbytes)

    def _quantise(self, tensor: int, rows: npt.NDArray[Any]) -> None:
        to, width = self.base.ggml_get_data(tensor), rows.shape[-1]
        self.base.ggml_quantize_chunk(
            self.kind, rows.ctypes.data, to, 0, rows.size // width, width, None
        )

    def use_threads(self, count: int) -> None:
        self.cpu.ggml_backend_cpu_set_n_threads(self.backend, count)

    def run(self) -> None:
        if self.base.ggml_backend_graph_compute(self.backend, self.graph) != 0:
            raise AssertionError("ggml did not compute its graph")

    def result(self) -> Floats:
        out: Floats = np.empty(self.shape, np.float32)
        for row, tensor in zip(out, self.outs, strict=True):
            ctypes.memmove(row.ctypes.data, self.base.ggml_get_data(tensor), row.nbytes)
        return out

    def __del__(self) -> None:
        if hasattr(self, "backend"):
            self.base.ggml_backend_free(self.backend)
            self.base.ggml_free(self.context)
