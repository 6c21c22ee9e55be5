"""The operations as torch's: the results of `pagedkv.ops`, and what torch wants to know of them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from support.errors import refuses

from pagedkv import KVCacheManager, ShapeError, UnsupportedError, ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from support.torch_cases import (  # noqa: E402
    CASES,
    arguments_of,
    clone,
    tensors_in,
)

import pagedkv.integrations.torch as front  # noqa: E402
from pagedkv.integrations.torch.kernels import Kernels  # noqa: E402
from pagedkv.integrations.torch.schemas import SCHEMAS  # noqa: E402

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def bits(value: Any) -> list[bytes]:
    """Of every tensor."""
    return [each.contiguous().view(torch.uint8).numpy().tobytes() for each in tensors_in(value)]


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """The operations of pagedkv that are called within it, and with what."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.namespace == "pagedkv":
            self.seen.append((function, clone(args), clone(kwargs or {})))
        return function(*args, **(kwargs or {}))


def call_of(case: str) -> tuple[Any, Any, Any]:
    """The one call of `torch.ops` that a case makes."""
    operation, arguments = arguments_of(case)
    with Calls() as calls:
        getattr(front, operation)(**arguments)
    (seen,) = calls.seen
    return seen


@pytest.mark.parametrize("case", CASES)
def test_results_and_what_is_written_are_those_of_the_operations(case: str) -> None:
    operation, arguments = arguments_of(case)
    plain = clone(arguments)
    plain.pop("num_tokens", None)
    expected = getattr(ops, operation)(**plain)
    result = getattr(front, operation)(**arguments)
    assert bits(result) == bits(expected)
    assert [each.dtype for each in tensors_in(result)] == [
        each.dtype for each in tensors_in(expected)
    ]
    assert bits(arguments) == bits(plain)
    if arguments.get("out") is not None:
        given = tensors_in(arguments["out"])
        assert all(a is b for a, b in zip(given, tensors_in(result), strict=False))


@pytest.mark.parametrize("case", CASES)
def test_torch_checks_what_is_registered(case: str) -> None:
    function, args, kwargs = call_of(case)
    checks = ["test_autograd_registration", "test_faketensor"]
    # What has changed it asks by arithmetic, which torch has none of for float8.
    if not any(each.dtype in FLOAT8 for each in tensors_in([args, kwargs])):
        checks.append("test_schema")
    done = torch.library.opcheck(function, args, kwargs, test_utils=checks)
    assert set(done.values()) == {"SUCCESS"}


def test_the_cases_call_every_operation_there_is() -> None:
    called = {call_of(case)[0].name().partition("::")[2] for case in CASES}
    assert called == {schema.partition("(")[0] for schema in SCHEMAS}
    assert {name.partition(".")[0] for name in called} == set(ops.__all__) - {"SupportsDLPack"}


def test_the_front_has_the_names_and_options_of_the_operations() -> None:
    assert set(front.__all__) == set(ops.__all__) - {"SupportsDLPack"}
    for name in front.__all__:
        ours = list(inspect.signature(getattr(front, name)).parameters)
        theirs = list(inspect.signature(getattr(ops, name)).parameters)
        assert [each for each in ours if each != "num_tokens"] == theirs


@pytest.mark.parametrize("case", CASES)
def test_other_devices_go_through_the_operations_and_give_the_same(case: str) -> None:
    function, args, kwargs = call_of(case)
    name = function.name()
    has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    assert all(has_kernel(name, key) for key in ("CPU", "CUDA", "MPS", "Meta"))
    own, its_args, its_kwargs = Kernels(ops).of(name.partition("::")[2]), clone(args), clone(kwargs)
    assert bits(own(*its_args, **its_kwargs)) == bits(function(*args, **kwargs))
    assert bits([its_args, its_kwargs]) == bits([args, kwargs])


def test_tensors_are_used_where_they_lie() -> None:
    _, arguments = arguments_of("write_kv")
    pool = torch.zeros(2, 8, 4, 2, 16).transpose(2, 3)  # views of one array, not contiguous
    arguments |= {"k_cache": pool[0], "v_cache": pool[1]}
    front.write_kv(**arguments)
    assert torch.equal(pool[0, 1, :, 1], arguments["k"][0])
    assert torch.equal(pool[1, 7, :, 2], arguments["v"][2])


def test_the_arrays_of_a_batch_and_lists_go_in_as_they_are() -> None:
    manager = KVCacheManager(num_blocks=8, block_size=4)
    manager.add(0, [1, 2, 3, 4, 5])
    manager.acquire([0])
    batch = manager.schedule([0], [5])
    k, v, q = torch.randn(5, 2, 16), torch.randn(5, 2, 16), torch.randn(5, 4, 16)
    k_cache, v_cache = torch.zeros(2, 8, 2, 4, 16)
    front.write_kv(k, v, k_cache, v_cache, batch.slot_mapping)
    given = (q, k_cache, v_cache, batch.block_tables, batch.seq_lens)
    out = front.paged_attention(*given, query_start_loc=batch.query_start_loc)
    expected = ops.paged_attention(*given, query_start_loc=batch.query_start_loc)
    assert torch.equal(out, expected)
    lists = (batch.block_tables.tolist(), batch.seq_lens.tolist())
    logits = [0.5, 1, 2, 3]
    kwargs = {"query_start_loc": [0, 5], "sink_logits": logits, "alibi_slopes": np.ones(4, "f4")}
    out = front.paged_attention(q, k_cache, v_cache, *lists, **kwargs)
    assert torch.equal(out, ops.paged_attention(*given, **kwargs))
    batch.seq_lens.flags.writeable = False  # torch warns where it is given such memory
    front.gather_kv(k_cache, v_cache, batch.block_tables, batch.seq_lens)
    front.copy_blocks([k_cache], [])
    front.copy_blocks([k_cache], [(0, 1)])
    assert torch.equal(k_cache[0], k_cache[1])


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtypes_are_named_as_torch_or_numpy_name_them(name: Any) -> None:
    _, arguments = arguments_of("gather_kv")
    k, _ = front.gather_kv(**arguments, out_dtype=name)
    assert k.dtype == torch.bfloat16
    k, _ = front.gather_kv(**arguments, out_dtype=np.float16)
    assert k.dtype == torch.float16
    _, arguments = arguments_of("mla_write raw float8")
    front.mla_write(**arguments | {"dtype": torch.float8_e5m2})


def test_numbers_of_numpy_and_tensors_of_one_are_scales() -> None:
    _, arguments = arguments_of("paged_attention float8, numbers")
    expected = front.paged_attention(**arguments)
    arguments |= {"k_scale": np.float32(0.25), "v_scale": torch.tensor(3.0)}
    assert torch.equal(front.paged_attention(**arguments), expected)
    shape = arguments["k_cache"].shape[:2]
    arguments |= {"k_scale": np.full(shape, 0.25, "f4"), "v_scale": np.full(shape, 3, "f4")}
    assert torch.equal(front.paged_attention(**arguments), expected)


def test_integers_of_numpy_lie_as_they_like() -> None:
    _, arguments = arguments_of("write_kv")
    front.write_kv(**clone(arguments) | {"slot_mapping": arguments["slot_mapping"].tolist()})
    expected = clone(arguments)
    front.write_kv(**expected)
    backwards = arguments["slot_mapping"].numpy()[::-1].copy()[::-1]
    for slots in (backwards, backwards.astype(">i8")):
        given = clone(arguments)
        front.write_kv(**given | {"slot_mapping": slots})
        assert torch.equal(given["k_cache"], expected["k_cache"])
    with refuses(ShapeError, "integrations.torch", "lists of integers", "equal lengths"):
        front.copy_blocks([arguments["k_cache"]], [[0, 1], [2]])


@pytest.mark.parametrize("dtype", ["float8_e4m3", "float8_e4m3fn", torch.float8_e4m3fn])
def test_a_cache_of_float8_is_gathered_as_it_is_stored(dtype: Any) -> None:
    _, arguments = arguments_of("gather_kv")
    for name in ("k_cache", "v_cache"):
        arguments[name] = arguments[name].to(torch.float8_e4m3fn)
    k, _ = front.gather_kv(**arguments, out_dtype=dtype)
    plain, _ = front.gather_kv(**arguments)
    assert k.dtype == torch.float8_e4m3fn
    assert torch.equal(k.view(torch.uint8), plain.view(torch.uint8))
    with refuses(UnsupportedError, "ops.gather_kv", "dtype float7"):
        front.gather_kv(**arguments, out_dtype="float7")


def test_queries_may_be_rotated_in_place_and_states_merged_in_place() -> None:
    _, arguments = arguments_of("rope_write_kv")
    expected = front.rope_write_kv(**clone(arguments))
    q = arguments["q"]
    assert front.rope_write_kv(**arguments, out=q) is q
    assert torch.equal(q, expected)
    _, arguments = arguments_of("merge_attention_states")
    expected = front.merge_attention_states(**arguments)
    o, lse = front.merge_attention_states(**arguments, out=(arguments["o_a"], arguments["lse_a"]))
    assert o is arguments["o_a"]
    assert torch.equal(o, expected[0])
    assert torch.equal(lse, expected[1])


def test_errors_are_those_of_the_operations_and_nothing_is_written() -> None:
    _, arguments = arguments_of("write_kv")
    before = bits(arguments)
    with refuses(ShapeError, "ops.write_kv", "k"):
        front.write_kv(**arguments | {"k": arguments["k"][:, :1]})
    assert bits(arguments) == before


def test_a_wrong_number_of_tokens_is_refused() -> None:
    _, arguments = arguments_of("gather_kv")
    for wrong in (0, 15, 17):
        with refuses(ShapeError, "ops.gather_kv", f"num_tokens is {wrong}", "16, the sum"):
            front.gather_kv(**arguments, num_tokens=wrong)
    with refuses(ShapeError, "ops.gather_kv", "num_tokens is -1", "0 or more"):
        front.gather_kv(**arguments, num_tokens=-1)
    with refuses(ShapeError, "ops.gather_kv", "k_cache and v_cache of shape (1, 2)"):
        front.gather_kv(**arguments | {"k_cache": torch.ones(1, 2)}, num_tokens=16)


def test_a_scale_is_given_once() -> None:
    _, args, kwargs = call_of("write_kv int8, scales computed")
    with refuses(ShapeError, "ops.write_kv", "both k_scale and k_scale_value"):
        torch.ops.pagedkv.write_kv(*args, **kwargs, k_scale_value=0.5)


@pytest.mark.parametrize(
    ("case", "argument"),
    [
        ("paged_attention", "q"),
        ("paged_attention", "v_cache"),
        ("write_kv", "k"),
        ("write_kv", "k_cache"),
        ("rope_write_kv", "q"),
        ("gather_kv", "k_cache"),
        ("mla_decode", "q_pe"),
        ("mla_write", "ckv"),
        ("merge_attention_states", "lse_b"),
        ("swap_blocks", "dst_cache"),
    ],
)
def test_what_requires_grad_is_refused_unless_gradients_are_off(case: str, argument: str) -> None:
    operation, arguments = arguments_of(case)
    if not arguments[argument].is_floating_point():
        arguments |= {name: t.float() for name, t in arguments.items() if name.endswith("cache")}
    tensor = arguments[argument].requires_grad_()
    call = getattr(front, operation)
    with refuses(UnsupportedError, f"ops.{operation}", "requires grad", "torch.no_grad()"):
        call(**arguments)
    with torch.no_grad():
        result = call(**arguments)
    assert not any(each.requires_grad for each in tensors_in(result))
    assert tensor.grad is None


def test_a_cache_among_several_that_requires_grad_is_refused() -> None:
    _, arguments = arguments_of("copy_blocks")
    arguments["caches"][1].requires_grad_()
    with refuses(UnsupportedError, "ops.copy_blocks", "requires grad"):
        front.copy_blocks(**arguments)


def test_a_backward_pass_notices_that_what_it_saved_was_written_to() -> None:
    _, arguments = arguments_of("write_kv")
    weight = torch.ones((), requires_grad=True)
    loss = (arguments["k_cache"] * weight).sum()
    front.write_kv(**arguments)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_mode_and_inference_tensors_are_taken() -> None:
    with torch.inference_mode():
        operation, arguments = arguments_of("write_kv")
        getattr(front, operation)(**arguments)
    assert torch.equal(arguments["k_cache"][1, :, 1], arguments["k"][0])


def test_other_devices_are_refused_by_name() -> None:
    _, arguments = arguments_of("paged_attention")
    moved = {
        name: value.to("meta") if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    out = front.paged_attention(**moved)  # meta tensors have shapes alone, and so has the result
    assert (out.device.type, out.shape, out.dtype) == ("meta", (4, 4, 16), torch.float32)
    with refuses(UnsupportedError, "ops.paged_attention", "on device meta"):
        ops.paged_attention(**moved)


def test_tensors_without_contents_are_refused_by_the_operations_themselves() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        _, arguments = arguments_of("paged_attention")
        with (
            pytest.warns(UserWarning, match="data pointer of FakeTensor"),
            refuses(UnsupportedError, "ops.paged_attention", "(FakeTensor)", "integrations.torch"),
        ):
            ops.paged_attention(**arguments)
        assert front.paged_attention(**arguments).shape == (4, 4, 16)


def test_nothing_of_torch_is_imported_before_it_is_asked_for() -> None:
    script = "import sys, pagedkv, pagedkv.integrations; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
