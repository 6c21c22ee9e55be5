"""A map of a pool in letters, for terminals."""

from __future__ import annotations

import string
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pagedkv.show.pool_map import BlockState, PoolMap

__all__ = ["as_text"]

OWNERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
LETTERS = "A-z 0-9"
SYMBOLS = {
    BlockState.UNUSED: ".",
    BlockState.CACHED: "+",
    BlockState.FREE: "_",
    BlockState.SHARED: "*",
    BlockState.KEPT: "#",
    BlockState.UNTOLD: "?",
}
WORDS = {
    BlockState.HELD: "held by one sequence",
    BlockState.SHARED: "shared by several",
    BlockState.KEPT: "kept: leased, pinned, reserved, others'",
    BlockState.CACHED: "cached and free",
    BlockState.UNUSED: "unused",
    BlockState.FREE: "free: unused, or cached",
    BlockState.UNTOLD: "free or kept: not told",
}

# Okabe and Ito's palette in the 256 colours of terminals.
COLOURS = (32, 166, 36, 175, 74, 178)
DIM, LOUD = 244, 255
LOUDER = (BlockState.SHARED, BlockState.KEPT)
RESET = "\x1b[0m"

MOST_ROWS = 32
MOST_LISTED = 10


def as_text(pool: PoolMap, *, width: int = 64, colour: bool = False) -> str:
    """The map, what its letters mean, and the sequences that hold the most blocks.

    A letter is a block, or as many as make the map 32 lines at most: then it tells the state that
    most of them have, and of those that one sequence holds, which has the most of them. `A` holds
    the most blocks of all. With `colour`, escape sequences of terminals
    with 256 colours.
    """
    width = max(8, width)
    share = max(1, -(-pool.num_blocks // (width * MOST_ROWS)))
    cells = _cells(pool, share)
    lines = []
    for start in range(0, len(cells), width):
        row = cells[start : start + width]
        runs = ((code, sum(1 for _ in run)) for code, run in groupby(row.tolist()))
        letters = "".join(_painted(code, colour, count) for code, count in runs)
        lines.append(f"{start * share:>7,} {letters}")
    each = "one block" if share == 1 else f"{share:,} blocks, by what most of them are"
    lines += ["", f"each sign is {each}", *_counts(pool), "", *_sequences(pool, colour)]
    return "\n".join(lines)


def _cells(pool: PoolMap, share: int) -> NDArray[np.int64]:
    """A code for each sign: the owner's rank where one holds the block, else -1 - state."""
    held = pool.states == BlockState.HELD
    codes = np.where(held, pool.ranks_of_owners(), -1 - pool.states.astype(np.int64))
    if share == 1:
        return codes
    places = range(share, len(codes), share)
    most = []
    for states, part in zip(np.split(pool.states, places), np.split(codes, places), strict=True):
        most.append(_most(part[states == _most(states)]))
    return np.array(most, np.int64)


def _most(values: NDArray[np.integer]) -> int:
    """What comes up most often; of equals the lowest."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[np.argmax(counts)])


def _painted(code: int, colour: bool, count: int = 1) -> str:
    """The sign of a code, so many times."""
    if code >= 0:
        sign, shade = OWNERS[code % len(OWNERS)], COLOURS[code % len(COLOURS)]
    else:
        state = BlockState(-1 - code)
        sign, shade = SYMBOLS[state], LOUD if state in LOUDER else DIM
    return f"\x1b[38;5;{shade}m{sign * count}{RESET}" if colour else sign * count


def _counts(pool: PoolMap) -> list[str]:
    lines = []
    for state, words in WORDS.items():
        count = pool.count(state)
        if count or state is BlockState.HELD:
            sign = SYMBOLS.get(state, LETTERS)
            share = 100 * count / pool.num_blocks
            lines.append(f"  {sign:8}{words:36}{count:>9,}  {share:5.1f} %")
    lines.append(f"  {'':8}{'blocks':36}{pool.num_blocks:>9,}")
    return lines


def _sequences(pool: PoolMap, colour: bool) -> list[str]:
    lines = [f"  {'sequence':>12}  {'tokens':>9}  {'blocks':>7}  {'shared':>7}"]
    for rank, index in enumerate(pool.largest[:MOST_LISTED]):
        lines.append(
            f"{_painted(rank, colour)} {pool.seq_ids[index]:>12}  {pool.seq_tokens[index]:>9,}  "
            f"{pool.seq_blocks[index]:>7,}  {pool.seq_shared[index]:>7,}"
        )
    if len(pool.seq_ids) > MOST_LISTED:
        lines.append(f"  and {len(pool.seq_ids) - MOST_LISTED:,} more")
    return lines if pool.seq_ids else ["  no sequences"]
