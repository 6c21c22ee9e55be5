"""The operations in compiled programs: whole graphs, the same results, the same memory written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from pagedkv import UnsupportedError

torch = pytest.importorskip("torch", reason="torch is not installed")
from support.torch_cases import (  # noqa: E402
    CASES,
    Arguments,
    arguments_of,
    clone,
    tensors_in,
)

import pagedkv.integrations.torch as front  # noqa: E402

# What torch says of its own code while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:::torch", "ignore::DeprecationWarning")

# One of each overload, and what stores its elements in another way.
COMPILED = [
    case
    for case in CASES
    if case != "gather_kv"  # which has a test of its own
    and not any(word in case for word in ("bfloat16", "float8", "norms", "not causal", "exact"))
]


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors_in(a), tensors_in(b), strict=True))
    return all(torch.equal(x[None].view(torch.uint8), y[None].view(torch.uint8)) for x, y in pairs)


def check(program: Callable[..., Any], arguments: Arguments, backend: str, **options: Any) -> None:
    """Compiled as one graph it gives the same, and writes the same."""
    expected_in = clone(arguments)
    expected = program(expected_in)
    with torch.no_grad():
        result = torch.compile(program, fullgraph=True, backend=backend, **options)(arguments)
    assert same(result, expected)
    assert same(arguments, expected_in)


@pytest.mark.parametrize("case", COMPILED)
def test_every_call_is_traced_with_dynamic_shapes(case: str) -> None:
    operation, arguments = arguments_of(case)

    def program(given: Arguments) -> Any:
        return getattr(front, operation)(**given)

    check(program, arguments, "aot_eager", dynamic=True)


def decode_step(given: Arguments) -> Any:
    """Every operation between torch's own, as layers of a model have them."""
    q = front.rope_write_kv(**given["rope"])
    keys, values = given["rope"]["k_cache"], given["rope"]["v_cache"]
    front.write_kv(q[:, :2] * 2, q[:, 2:] + 1, keys, values, given["rope"]["slot_mapping"])
    front.copy_blocks([keys, values], given["pairs"])
    front.move_slots([keys, values], given["pairs"] * 4)
    front.swap_blocks(keys, values, given["pairs"])
    tables, lens = given["tables"]["block_tables"], given["tables"]["seq_lens"]
    more = given["rope"]["q"].sin()
    new = torch.cat([more, more[:1]])
    out, lse = front.paged_attention(new, keys, values, tables, lens, window=4, return_lse=True)
    again = torch.empty_like(out)
    front.paged_attention(new.cos(), keys, values, tables, lens, k_scale=None, out=again)
    merged, total = front.merge_attention_states(out, lse, again, lse - 1)
    dense, _ = front.gather_kv(keys, values, tables, lens, num_tokens=given["num_tokens"])
    latent = given["latent"]
    front.mla_write(
        latent["q_nope"][:, 0] * 2,
        latent["q_pe"][:, 0],
        latent["ckv_cache"],
        latent["kpe_cache"],
        lens.long() * 2,
    )
    return merged * 2, total, dense.sum(), front.mla_decode(**latent).tanh()


def step_arguments() -> Arguments:
    _, rope = arguments_of("rope_write_kv")
    _, latent = arguments_of("mla_decode")
    _, gathered = arguments_of("gather_kv of so many tokens")
    return {
        "rope": rope,
        "latent": latent,
        "tables": {name: gathered[name] for name in ("block_tables", "seq_lens")},
        "num_tokens": gathered["num_tokens"],
        "pairs": torch.tensor([[0, 2], [6, 4]]),
    }


@pytest.mark.parametrize(
    ("backend", "dynamic"), [("eager", False), ("aot_eager", False), ("aot_eager", True)]
)
def test_a_step_is_one_graph(backend: str, dynamic: bool) -> None:
    check(decode_step, step_arguments(), backend, dynamic=dynamic)


def write_and_attend(given: Arguments) -> Any:
    """As little as has an operation of each kind."""
    keys, values = given["k_cache"], given["v_cache"]
    front.write_kv(given["q"][:, :2] * 2, given["q"][:, 2:], keys, values, given["seq_lens"].long())
    tables, lens = given["block_tables"], given["seq_lens"]
    return front.paged_attention(given["q"] + 1, keys, values, tables, lens) * 2


@pytest.mark.parametrize(
    ("program", "dynamic"),
    [(decode_step, False), (write_and_attend, True)],
    ids=["step", "dynamic"],
)
def test_programs_are_compiled_to_machine_code(
    program: Callable[[Arguments], Any], dynamic: bool
) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("a C++ compiler (g++ or clang++), which torch's inductor needs, is missing")
    whole = program is decode_step
    expected_in = step_arguments() if whole else arguments_of("paged_attention")[1]
    arguments = clone(expected_in)
    expected = program(expected_in)
    compiled = torch.compile(program, fullgraph=True, backend="inductor", dynamic=dynamic)
    with torch.no_grad():
        result = compiled(arguments)
    # Its sines and sums are not those of torch bit for bit.
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tensors_in(arguments), tensors_in(expected_in))


def test_integers_of_numpy_do_not_break_the_graph() -> None:
    _, arguments = arguments_of("write_kv")
    slots = arguments.pop("slot_mapping").numpy()

    def program(given: Arguments) -> None:
        front.write_kv(**given, slot_mapping=slots)

    check(program, arguments, "eager")


def test_one_graph_serves_batches_of_other_sizes() -> None:
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def program(given: Arguments) -> Any:
        return front.paged_attention(**given)

    compiled = torch.compile(program, fullgraph=True, backend=backend, dynamic=True)
    _, arguments = arguments_of("paged_attention")
    for size in (5, 6, 9):
        rows = torch.arange(size) % 4
        part = {name: arguments[name][rows] for name in ("q", "block_tables", "seq_lens")}
        given = arguments | part
        assert same(compiled(given), program(given))
    assert len(graphs) == 1


def test_a_window_that_changes_is_no_new_graph_and_no_old_window() -> None:
    _, arguments = arguments_of("paged_attention")

    def program(window: int) -> Any:
        return front.paged_attention(**arguments, window=window)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager", dynamic=True)
    for window in (2, 3, 5):
        assert same(compiled(window), program(window))


def test_sizes_that_only_the_lengths_tell_may_be_captured() -> None:
    _, arguments = arguments_of("gather_kv")

    def program(given: Arguments) -> Any:
        keys, values = front.gather_kv(**given)
        return keys * 2, values.sum(dim=0)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        check(program, arguments, "aot_eager")


def test_a_program_is_exported_with_the_operations_in_it() -> None:
    class Layer(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, tables: Any, lens: Any) -> Any:
            return front.paged_attention(q * 2, k, v, tables, lens)

    _, arguments = arguments_of("paged_attention")
    with torch.no_grad():
        exported = torch.export.export(Layer(), tuple(arguments.values()))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert "pagedkv.paged_attention.default" in targets
    assert same(exported.module()(*arguments.values()), Layer()(*arguments.values()))


def test_torch_checks_that_what_is_traced_computes_the_same() -> None:
    """torch's own check of all of it: of a call that writes and one that gives."""
    for name in ("paged_attention.lse", "write_kv.default"):
        operation, _, overload = name.partition(".")
        _, arguments = arguments_of(operation)
        function = getattr(getattr(torch.ops.pagedkv, operation), overload)
        names = [argument.name for argument in function._schema.arguments]
        args = [arguments[each] for each in names if each in arguments]
        assert set(torch.library.opcheck(function, args).values()) == {"SUCCESS"}


def test_gradients_are_refused_while_a_program_is_traced() -> None:
    _, arguments = arguments_of("paged_attention")
    arguments["q"].requires_grad_()

    def program(given: Arguments) -> Any:
        return front.paged_attention(**given)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    with pytest.raises(
        (UnsupportedError, RuntimeError), match=r"\[ops.paged_attention\] q requires grad"
    ):
        compiled(arguments)
    with torch.no_grad():
        assert same(compiled(arguments), program(arguments))
