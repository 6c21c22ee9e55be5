"""BlockTable: logical to physical blocks, a list for each layer."""

import copy
from typing import Any

import numpy as np
import pytest
from support.errors import refuses

from pagedkv import BlockTable, InvalidSlotError, ShapeError


def table_of(*rows: list[int], block_size: int = 4) -> BlockTable:
    table = BlockTable(len(rows), block_size)
    for layer, row in enumerate(rows):
        for block in row:
            table.append_block(layer, block)
    return table


def rows_of(table: BlockTable) -> list[list[int]]:
    return [row.tolist() for row in table]


def test_a_new_table_has_an_empty_list_for_each_layer() -> None:
    table = BlockTable(3, 16)
    assert rows_of(table) == [[], [], []]
    assert (len(table), table.num_layers, table.block_size) == (3, 3, 16)
    assert len(BlockTable(0, 1)) == 0


def test_append_block_appends_to_one_layer() -> None:
    table = table_of([5, 2], [], [7])
    assert rows_of(table) == [[5, 2], [], [7]]
    assert [table.num_blocks(layer) for layer in range(3)] == [2, 0, 1]


def test_the_same_id_may_stand_in_a_table_more_than_once() -> None:
    assert rows_of(table_of([3, 3], [3])) == [[3, 3], [3]]


def test_get_block_gives_none_past_the_end_of_a_layer() -> None:
    table = table_of([5, 2], [])
    assert [table.get_block(0, logical) for logical in (0, 1, 2, 2**63)] == [5, 2, None, None]
    assert table.get_block(1, 0) is None


def test_get_block_has_no_negative_blocks() -> None:
    table = table_of([5, 2])
    with refuses(InvalidSlotError, "BlockTable.get_block", "logical block -1", unchanged=table):
        table.get_block(0, -1)


def test_token_capacity_is_blocks_times_block_size() -> None:
    table = table_of([5, 2, 9], [], block_size=16)
    assert (table.token_capacity(0), table.token_capacity(1)) == (48, 0)


@pytest.mark.parametrize(
    ("num_tokens", "kept"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (2**64 - 1, 3)]
)
def test_truncate_keeps_the_blocks_that_the_tokens_need(num_tokens: int, kept: int) -> None:
    table = table_of([5, 2, 9], [1, 1])
    freed = table.truncate(0, num_tokens)
    assert freed.dtype == np.int32
    assert freed.tolist() == [5, 2, 9][kept:]
    assert rows_of(table) == [[5, 2, 9][:kept], [1, 1]]


def test_as_array_is_padded_with_minus_one() -> None:
    table = table_of([5, 2, 9], [], [0])
    array = table.as_array()
    assert array.dtype == np.int32
    assert array.tolist() == [[5, 2, 9], [-1, -1, -1], [0, -1, -1]]
    assert BlockTable(2, 4).as_array().shape == (2, 0)
    assert BlockTable(0, 4).as_array().shape == (0, 0)


def test_as_array_and_rows_are_copies() -> None:
    table = table_of([5, 2])
    table.as_array()[:] = 9
    table[0][:] = 9
    assert rows_of(table) == [[5, 2]]


def test_indexing_and_iteration_give_the_layers_lists() -> None:
    table = table_of([5, 2], [7])
    assert table[0].tolist() == table[-2].tolist() == [5, 2]
    assert table[-1].tolist() == [7]
    assert [row.dtype for row in table] == [np.int32, np.int32]
    assert [row.tolist() for row in reversed(list(table))] == [[7], [5, 2]]
    for outside in (2, -3, 2**64):
        with refuses(InvalidSlotError, "BlockTable.__getitem__", f"layer {outside}"):
            table[outside]


@pytest.mark.parametrize("layer", [2, -1, 2**64])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("append_block", (0,)),
        ("get_block", (0,)),
        ("num_blocks", ()),
        ("token_capacity", ()),
        ("truncate", (0,)),
    ],
)
def test_a_layer_out_of_range_is_an_invalid_slot(
    function: str, arguments: tuple[int, ...], layer: int
) -> None:
    table = table_of([5, 2], [1])
    with refuses(
        InvalidSlotError,
        f"BlockTable.{function}",
        f"layer {layer} is out of range",
        unchanged=table,
    ) as raised:
        getattr(table, function)(layer, *arguments)
    assert raised.value.slot == layer


@pytest.mark.parametrize("block", [-1, 2**31, 2**32, 2**64])
def test_an_id_that_no_int32_holds_is_an_invalid_slot(block: int) -> None:
    table = table_of([5])
    with refuses(InvalidSlotError, "BlockTable.append_block", f"block id {block}", unchanged=table):
        table.append_block(0, block)
    table.append_block(0, 2**31 - 1)
    assert rows_of(table) == [[5, 2**31 - 1]]


def test_truncate_to_a_negative_length_is_a_shape_error() -> None:
    table = table_of([5])
    with refuses(ShapeError, "BlockTable.truncate", "num_tokens is -1", unchanged=table):
        table.truncate(0, -1)


def test_a_block_size_of_zero_is_a_shape_error() -> None:
    with refuses(ShapeError, "BlockTable", "block_size is 0", "at least 1"):
        BlockTable(1, 0)
    with refuses(ShapeError, "BlockTable", "num_layers is -1"):
        BlockTable(-1, 4)
    with refuses(ShapeError, "BlockTable", "a size beyond"):
        BlockTable(2**60, 4)


def test_a_token_capacity_that_overflows_is_a_shape_error() -> None:
    table = table_of([0, 1], block_size=2**63)
    with refuses(ShapeError, "BlockTable.token_capacity", "a size beyond", unchanged=table):
        table.token_capacity(0)
    assert table.truncate(0, 2**63 + 1).tolist() == []


def test_tables_are_equal_when_their_lists_and_block_sizes_are() -> None:
    table = table_of([5, 2], [7])
    assert table == table_of([5, 2], [7])
    for other in (
        table_of([5, 2], [8]),
        table_of([5, 2]),
        table_of([5], [7]),
        table_of([5, 2], [7], block_size=8),
    ):
        assert table != other
    assert table != [[5, 2], [7]]
    assert table != None  # noqa: E711  the comparison itself is under test


def test_equality_with_something_else_is_left_to_the_other() -> None:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

    assert table_of([5]).__eq__(5) is NotImplemented
    assert table_of([5]) == Anything()


def test_a_table_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(table_of([5]))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_table_of_its_own(copied: Any) -> None:
    table = table_of([5, 2], [7])
    twin = copied(table)
    assert twin == table
    twin.append_block(1, 3)
    assert rows_of(table) == [[5, 2], [7]]
    assert rows_of(twin) == [[5, 2], [7, 3]]


def test_repr_shows_the_shape() -> None:
    table = table_of([5, 2], [7], block_size=16)
    assert repr(table) == "BlockTable(num_layers=2, block_size=16, max_blocks=2)"
