"""ONNX Runtime's GroupQueryAttention, over contiguous keys and values to which it appends."""

from __future__ import annotations

from typing import Any

import numpy as np

from pagedkv.bench.attention.case import Case, Floats
from pagedkv.bench.attention.entrant import SkipError
from pagedkv.bench.attention.points import Point
from pagedkv.bench.rivals import load

__all__ = ["OnnxRuntime", "version"]


def version() -> str:
    load("onnx", "helper")
    return str(load("onnxruntime", "__version__"))


class OnnxRuntime:
    """Decode alone. Past and present share their memory, so that a call appends one token."""

    note = ""

    def __init__(self, case: Case) -> None:
        point = case.point
        if point.is_prefill or point.cache not in ("float32", "float16"):
            raise SkipError
        self.shape = case.q.shape
        self.model = _model(point)
        batch, tokens = point.num_seqs, point.num_tokens
        last_k, last_v = (
            np.ascontiguousarray(rows[:, :, -1]).reshape(batch, 1, -1)
            for rows in (case.raw_k, case.raw_v)
        )
        value = load("onnxruntime", "OrtValue").ortvalue_from_numpy
        self.past = {"key": value(case.raw_k), "value": value(case.raw_v)}
        self.inputs = {
            "q": value(case.raw_q.reshape(batch, 1, -1)),
            "k": value(last_k),
            "v": value(last_v),
            "last": value(np.full(batch, tokens - 1, np.int32)),
            "total": value(np.array([tokens], np.int32)),
            **{f"past_{name}": rows for name, rows in self.past.items()},
        }
        self.out = value(np.zeros((batch, 1, point.num_q_heads * point.head_dim), case.raw_q.dtype))
        self.session: Any = None
        self.binding: Any = None

    def use_threads(self, count: int) -> None:
        options = load("onnxruntime", "SessionOptions")()
        options.intra_op_num_threads = count
        options.inter_op_num_threads = 1
        self.session = load("onnxruntime", "InferenceSession")(
            self.model, options, providers=["CPUExecutionProvider"]
        )
        self.binding = self.session.io_binding()
        for name, given in self.inputs.items():
            self.binding.bind_ortvalue_input(name, given)
        self.binding.bind_ortvalue_output("out", self.out)
        for name, rows in self.past.items():
            self.binding.bind_ortvalue_output(f"present_{name}", rows)

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def result(self) -> Floats:
        floats: Floats = self.out.numpy().astype(np.float32).reshape(self.shape)
        return floats


def _model(point: Point) -> bytes:
    helper, types = load("onnx", "helper"), load("onnx", "TensorProto")
    element = types.FLOAT if point.cache == "float32" else types.FLOAT16
    tokens = [point.num_seqs, 1]
    cache = [point.num_seqs, point.num_kv_heads, point.num_tokens, point.head_dim]
    q = [*tokens, point.num_q_heads * point.head_dim]
    k = [*tokens, point.num_kv_heads * point.head_dim]

    def values(shapes: dict[str, list[int]], kind: Any) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, s) for name, s in shapes.items()]

    inputs = values({"q": q, "k": k, "v": k, "past_key": cache, "past_value": cache}, element)
    inputs += values({"last": [point.num_seqs], "total": [1]}, types.INT32)
    outputs = values({"out": q, "present_key": cache, "present_value": cache}, element)
    node = helper.make_node(
        "GroupQueryAttention",
        [value.name for value in inputs],
        [value.name for value in outputs],
        domain="com.microsoft",
        num_heads=point.num_q_heads,
        kv_num_heads=point.num_kv_heads,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    serialised: bytes = model.SerializeToString()
    return serialised
