"""OpenVINO's paged attention: the operation that its language models run, in a model of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pagedkv.bench.attention.case import Case, Floats
from pagedkv.bench.attention.entrant import SkipError
from pagedkv.bench.attention.points import BLOCK_SIZE, Point
from pagedkv.bench.rivals import load

__all__ = ["OpenVino", "version"]

_PRECISIONS = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "u8",
    "int4": "u4",
}
_CACHES = ("key_cache.0", "value_cache.0")
_FILLED_AT_ONCE = 64  # blocks


def version() -> str:
    load("openvino.op", "_PagedAttentionExtension")
    return str(load("openvino", "__version__"))


class OpenVino:
    """Blocks in random order. A call also appends its new tokens, which the cache has already."""

    def __init__(self, case: Case) -> None:
        point = case.point
        self.case = case
        self.precision = _precision(point)
        self.note = ""
        if self.precision == "f16" and point.cache == "bfloat16":
            self.note = "a float16 cache: no bfloat16 on this processor"
        self.requests: dict[int, Any] = {}
        self.request = self._compiled(1)
        self.caches = [self._cache(self.request, name) for name in _CACHES]
        blocks_each = -(-point.num_tokens // BLOCK_SIZE)
        order = np.random.default_rng().permutation(point.num_seqs * blocks_each)
        self.tables = order.astype(np.int32).reshape(point.num_seqs, blocks_each)
        for name, cache in zip(_CACHES, self.caches, strict=True):
            self.request.set_tensor(name, cache)
        for i in range(point.num_seqs):
            self._fill(i)
        self.requests[1] = self.request

    def _compiled(self, threads: int) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "KV_CACHE_PRECISION": self.precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        model = _model(self.case.point)
        return (
            load("openvino", "Core")().compile_model(model, "CPU", options).create_infer_request()
        )

    def _cache(self, request: Any, name: str) -> Any:
        """Zeros shaped as the compiled model wants them: scales lie within."""
        port = request.get_compiled_model().input(name)
        sizes = [size.get_length() for size in list(port.get_partial_shape())[1:]]
        point = self.case.point
        sizes.insert(0, point.num_seqs * -(-point.num_tokens // BLOCK_SIZE))
        if sizes[2] < BLOCK_SIZE:
            raise SkipError(f"has blocks of {sizes[2]} tokens here")
        kind = port.get_element_type()
        memory = np.zeros(int(np.prod(sizes)) * kind.bitwidth // 8, np.uint8)
        return load("openvino", "Tensor")(memory, load("openvino", "Shape")(sizes), kind)

    def _fill(self, seq: int) -> None:
        """Each block as if it were a sequence of its own: what is written is the same, and next to
        nothing is attended to."""
        table = self.tables[seq]
        for first in range(0, len(table), _FILLED_AT_ONCE):
            blocks = table[first : first + _FILLED_AT_ONCE]
            start = first * BLOCK_SIZE
            stop = min(start + len(blocks) * BLOCK_SIZE, self.case.point.num_tokens)
            begins = np.minimum(np.arange(len(blocks) + 1) * BLOCK_SIZE, stop - start)
            self._give(
                np.zeros((stop - start, *self.case.q.shape[1:]), np.float32),
                self.case.k[seq, :, start:stop].swapaxes(0, 1),
                self.case.v[seq, :, start:stop].swapaxes(0, 1),
                np.zeros(len(blocks)),
                begins,
                blocks,
                np.arange(len(blocks) + 1),
            )
            self.request.infer()

    def _give(
        self,
        q: Floats,
        k: Floats,
        v: Floats,
        past: npt.NDArray[Any],
        begins: npt.NDArray[Any],
        blocks: npt.NDArray[Any],
        block_begins: npt.NDArray[Any],
    ) -> None:
        """`q`, `k`, `v`: ``[num_tokens, num_heads, head_dim]``."""
        most = np.array((past + np.diff(begins)).max())
        integers = {
            "past_lens": past,
            "subsequence_begins": begins,
            "block_indices": blocks,
            "block_indices_begins": block_begins,
            "max_context_len": most,
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            name: np.ascontiguousarray(rows).reshape(len(rows), -1)
            for name, rows in (("q", q), ("k", k), ("v", v))
        }
        arrays |= {name: array.astype(np.int32) for name, array in integers.items()}
        tensor = load("openvino", "Tensor")
        for name, array in arrays.items():
            self.request.set_tensor(name, tensor(array))

    def use_threads(self, count: int) -> None:
        if count not in self.requests:
            self.requests[count] = self._compiled(count)
        self.request = self.requests[count]
        for name, cache in zip(_CACHES, self.caches, strict=True):
            self.request.set_tensor(name, cache)
        point = self.case.point
        num_seqs, num_new = point.num_seqs, point.num_new
        new_k, new_v = (
            rows[:, :, -num_new:].swapaxes(1, 2).reshape(-1, point.num_kv_heads, point.head_dim)
            for rows in (self.case.k, self.case.v)
        )
        self._give(
            self.case.q,
            new_k,
            new_v,
            np.full(num_seqs, point.num_tokens - num_new),
            np.arange(num_seqs + 1) * num_new,
            self.tables.reshape(-1),
            np.arange(num_seqs + 1) * self.tables.shape[1],
        )

    def run(self) -> None:
        self.request.infer()

    def result(self) -> Floats:
        out = self.request.get_output_tensor(0).data
        floats: Floats = np.array(out, np.float32).reshape(self.case.q.shape)
        return floats


def _precision(point: Point) -> str:
    """Of the cache. Where the processor has no bfloat16, OpenVINO takes no such cache."""
    if point.cache != "bfloat16":
        return _PRECISIONS[point.cache]
    able = load("openvino", "Core")().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in able else "f16"


def _model(point: Point) -> Any:
    ops, kinds = load("openvino", "opset15"), load("openvino", "Type")
    any_shape = load("openvino", "PartialShape")

    def parameter(name: str, kind: Any, shape: Any) -> Any:
        made = ops.parameter(shape, kind)
        made.output(0).get_tensor().set_names({name})
        made.set_friendly_name(name)
        return made

    def constant(value: Any, kind: Any = np.int32) -> Any:
        return ops.constant(np.array(value, kind))

    none = constant([])
    no_floats = constant([], np.float32)
    q_width = point.num_q_heads * point.head_dim
    k_width = point.num_kv_heads * point.head_dim
    rows = [
        parameter(name, kinds.f32, any_shape([-1, width]))
        for name, width in (("q", q_width), ("k", k_width), ("v", k_width))
    ]
    caches = [parameter(name, kinds.dynamic, any_shape.dynamic(4)) for name in _CACHES]
    batch = [
        parameter(name, kinds.i32, any_shape([-1]))
        for name in ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
    ]
    longest = parameter("max_context_len", kinds.i32, any_shape([]))
    options = [constant(point.scale, np.float32), constant(0), no_floats]  # no window, no ALiBi
    unused = [
        none,  # window of the scores that are given back
        *(none, none, no_floats),  # rotation of cached keys
        *(no_floats, constant(64), constant(8)),  # sparse attention
        no_floats,  # sinks
        *(constant(0), none, none, none),  # eviction by diversity
        *(none, constant([], np.uint8), none),  # images, trees
    ]
    inputs = [*rows, *caches, *batch, *options, longest, *unused]
    attention = load("openvino.op", "_PagedAttentionExtension")([x.output(0) for x in inputs])
    info = attention.get_rt_info()
    for name, size in (
        ("num_k_heads", point.num_kv_heads),
        ("num_v_heads", point.num_kv_heads),
        ("k_head_size", point.head_dim),
        ("v_head_size", point.head_dim),
    ):
        info[name] = size
    parameters = [*rows, *caches, *batch, longest]
    return load("openvino", "Model")([attention.output(0)], parameters, "attention")
