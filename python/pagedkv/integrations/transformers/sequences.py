"""The rows of one cache, as sequences of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv.errors import (
    CapacityError,
    PagedKvError,
    PoolExhaustedError,
    ShapeError,
    UnsupportedError,
)
from pagedkv.integrations.transformers.prompts import Prompts, leading_zeros, read_ids
from pagedkv.integrations.transformers.step import GroupTables, Step

if TYPE_CHECKING:
    from pagedkv.integrations.transformers.pool import PagedPool
    from pagedkv.integrations.transformers.states import StateCheckpoints

__all__ = ["Sequences"]

SaveStates = Callable[[Sequence[int], Sequence[int]], None]
"""Copies the states of rows to slots of the pool."""


class Sequences:
    """Which sequence of the pool each row of a batch is, and how far the layers are.

    Rows that hold the same are one sequence until one of them is to write something of its own:
    then all but the first become forks, whose shared blocks are copied when they are written.

    A column is a position of the batch, padding counted, a token a position of one row without it.
    Columns are *pending* until they are committed: until the next forward pass begins, or, while
    past states are recorded, until the next ``crop``. Blocks that a window has left are given back
    when columns are committed, so pending ones can always be cropped.
    """

    def __init__(self, pool: PagedPool) -> None:
        self.pool = pool
        self.rows: list[int] = []
        self.pads = np.zeros(0, np.int32)
        """Columns of padding on the left of each row."""
        self.length = 0
        """Columns that have slots."""
        self.written = [0] * pool.layout.num_attention_layers
        """Columns that each attention layer has written."""
        self.recording = False
        self.is_unread = False
        """Whether a layer in the native mode handed over keys that no attention has taken yet."""
        self.save_states: SaveStates | None = None
        self.drop_states: Callable[[], None] | None = None
        self._checkpoints: StateCheckpoints | None = None
        self._step: Step | None = None
        self._pending = 0
        self._told: list[NDArray[np.int32]] = []
        self._reordered = False

    @property
    def is_native(self) -> bool:
        """Whether the model's attention reads pages itself; asked each time, since
        ``set_attn_implementation`` changes it."""
        return bool(self.pool.layout.config._attn_implementation == "pagedkv")

    # A forward pass

    def enter(
        self, number: int, num_rows: int, count: int, mask: torch.Tensor | None = None
    ) -> Step:
        """The step in which a layer writes ``count`` new columns; the first layer begins it.

        Args:
            number: of the attention layer.
            num_rows: of the batch, a multiple of those that are held.
            count: new columns.
            mask: ``[num_rows, columns]``, False in padding; None: nothing says that there is any.
        """
        step = self._step
        if step is not None and self.written[number] == step.start:
            if (num_rows, count) != (len(self.rows), step.count):
                raise ShapeError(
                    f"[PagedCache.update] {num_rows} rows of {count} tokens; expected"
                    f" {len(self.rows)} rows of {step.count}, as in the layers before"
                )
            return step
        if self.written[number] != self.length:
            raise self._interrupted(number)
        return self._begin(num_rows, count, mask)

    def leave(self, number: int, step: Step) -> None:
        """A layer has written the step's columns."""
        self.written[number] = step.start + step.count

    def _begin(self, num_rows: int, count: int, mask: torch.Tensor | None) -> Step:
        self._require_complete()
        if not self.recording:
            self.commit()
        rows, told, created = list(self.rows), list(self._told), list[int]()
        end = self.length + count
        try:
            if not rows:
                created += (self.pool.add() for _ in range(num_rows))
                rows, told = list(created), [np.zeros(0, np.int32)] * num_rows
                pads = np.zeros(num_rows, np.int32)
            else:
                repeats = self._repeats(num_rows)
                rows = [row for row in rows for _ in range(repeats)]
                told = [tokens for tokens in told for _ in range(repeats)]
                pads = np.repeat(self.pads, repeats)
            pads = self._padding(pads, end, mask)
            seq_lens = _tokens(pads, end)
            new_tokens = seq_lens - _tokens(pads, self.length)
            rows = self._parted(rows, seq_lens, created)
            ids, writers = _distinct(rows)
            batch = self.pool.manager.schedule(ids, new_tokens[writers])
        except Exception as error:
            self._free(created)
            if not self.length and self.drop_states is not None:
                self.drop_states()  # layers of states before this one have begun already
            if isinstance(error, PoolExhaustedError):
                raise self.pool.exhausted(error.needed, error.free) from error
            raise
        place = {seq: i for i, seq in enumerate(ids)}
        row_of = [place[seq] for seq in rows]
        shares = len(ids) < len(rows)
        groups = []
        for group in range(len(self.pool.layout.windows)):
            self.pool.storage.copy(batch[group].copies)
            groups.append(
                GroupTables(batch[group].block_tables[row_of], batch[group].slot_mapping.copy())
            )
        step = Step(
            self.length,
            count,
            pads,
            seq_lens,
            new_tokens,
            np.array(writers) if shares else None,
            groups,
        )
        self.rows, self.pads, self._told = rows, pads, told
        self.length, self._step = end, step
        self._pending += count
        return step

    def _repeats(self, num_rows: int) -> int:
        repeats, rest = divmod(num_rows, len(self.rows))
        if rest or not repeats:
            raise ShapeError(
                f"[PagedCache.update] a batch of {num_rows}; expected a multiple of the"
                f" {len(self.rows)} rows that the cache holds"
            )
        return repeats

    def _padding(
        self, pads: NDArray[np.int32], end: int, mask: torch.Tensor | None
    ) -> NDArray[np.int32]:
        """Columns of padding as a mask tells them, checked against what is held."""
        if mask is None:
            return pads
        if mask.shape != (len(pads), end):
            raise ShapeError(
                f"[attn_implementation='pagedkv'] a mask {tuple(mask.shape)}; expected"
                f" {(len(pads), end)}, a column for each token so far"
            )
        masked = leading_zeros("attn_implementation='pagedkv'", mask)
        held = _tokens(pads, self.length)
        if (_tokens(masked, self.length) != held).any():
            raise ShapeError(
                f"[attn_implementation='pagedkv'] a mask of"
                f" {_tokens(masked, self.length).tolist()} tokens; expected {held.tolist()}, which"
                " the rows of the cache hold"
            )
        return masked

    def _parted(
        self, rows: list[int], seq_lens: NDArray[np.int32], created: list[int]
    ) -> list[int]:
        """Rows that are about to write something of their own get a sequence of their own."""
        if len(set(rows)) == len(rows):
            return rows
        parted, seen = [], set[int]()
        for row, length in zip(rows, seq_lens, strict=True):
            if row in seen and self.pool.manager.num_tokens(row) < length:
                self.commit()
                created.append(self._fork(row))
                row = created[-1]
            seen.add(row)
            parted.append(row)
        return parted

    def commit(self) -> None:
        """Pending columns are there to stay."""
        if not self._pending:
            return
        self._require_complete()
        ids, writers = _distinct(self.rows)
        lengths = _tokens(self.pads, self.length)[writers]
        counts = lengths - _tokens(self.pads, self.length - self._pending)[writers]
        self.pool.manager.commit(ids, counts)
        self._pending = 0
        if self._checkpoints is not None and self.save_states is not None:
            told = np.array([self.pool.manager.num_tokens(seq) for seq in ids])
            if not self._checkpoints.commit(
                ids, counts, lengths <= told, writers, self.save_states
            ):
                self._checkpoints = None

    def require_room(self, count: int) -> None:
        """Raises PoolExhaustedError where ``count`` more columns would not fit: before states that
        cannot be taken back are changed."""
        if not self.length or not self._is_complete:
            return
        if not self.recording:
            self.commit()
        seq_lens = _tokens(self.pads, self.length + count)
        self.rows = self._parted(self.rows, seq_lens, [])
        ids, writers = _distinct(self.rows)
        new = (seq_lens - _tokens(self.pads, self.length))[writers]
        manager = self.pool.manager
        if manager.fit(ids, new) < len(ids):
            size = self.pool.block_size
            held = -(-_tokens(self.pads, self.length)[writers] // size)
            needed = int((-(-seq_lens[writers] // size) - held).sum()) * len(
                self.pool.layout.windows
            )
            free = manager.num_free_blocks
            raise self.pool.exhausted(max(needed, free + 1), free)

    @property
    def _is_complete(self) -> bool:
        return all(columns == self.length for columns in self.written)

    def _require_complete(self) -> None:
        if not self._is_complete:
            behind = next(i for i, n in enumerate(self.written) if n != self.length)
            raise self._interrupted(behind)

    def _interrupted(self, number: int) -> PagedKvError:
        return PagedKvError(
            f"[PagedCache.update] attention layer {number} holds {self.written[number]} columns"
            f" where {self.length} have slots: a forward pass was interrupted; expected"
            f" crop({self.written[number] - self.length}) or reset() first"
        )

    # What a batch becomes

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        if not self.rows:
            return
        if not rows:
            self.close()
            return
        self._require_complete()
        self.commit()
        gone = set(self.rows)
        self.rows = [self.rows[row] for row in rows]
        self.pads = self.pads[list(rows)]
        self._told = [self._told[row] for row in rows]
        self._step = None
        self._free(sorted(gone - set(self.rows)))

    def reorder(self, rows: Sequence[int]) -> None:
        """Likewise, for beams."""
        self._reordered |= bool(self.rows) and list(rows) != list(range(len(rows)))
        self.select(rows)

    def crop(self, count: int) -> None:
        """Takes back the last ``count`` columns; commits the others."""
        if not 0 <= count <= self.length:
            raise ShapeError(
                f"[PagedCache.crop] {-count} tokens; expected -{self.length} to 0: how many to"
                " remove"
            )
        target = self.length - count
        if min(self.written) < target:
            raise self._interrupted(self.written.index(min(self.written)))
        if count:
            ids, writers = _distinct(self.rows)
            lengths = _tokens(self.pads, target)[writers]
            if count > self._pending:
                self._require_windows(count, ids, lengths)
            self.pool.manager.truncate(ids, lengths)
            self._drop_checkpoints()
            self._told = [
                tokens[:length]
                for tokens, length in zip(self._told, _tokens(self.pads, target), strict=True)
            ]
        self._pending = max(0, self._pending - count)
        self.length, self.is_unread = target, False
        self.written = [min(columns, target) for columns in self.written]
        self._step = None
        self.commit()

    def _require_windows(self, count: int, ids: Sequence[int], lengths: NDArray[np.int32]) -> None:
        """What the windows see at these lengths must be there still."""
        size = self.pool.block_size
        for group, window in enumerate(self.pool.layout.windows):
            for seq, length in zip(ids, lengths, strict=True):
                if window is None:
                    continue
                table = self.pool.manager.block_ids(seq, group)
                if (table[max(0, length - window + 1) // size : -(-length // size)] < 0).any():
                    raise CapacityError(
                        f"[PagedCache.crop] {-count} tokens with a window of {window} whose blocks"
                        f" were given back; expected at most the {self._pending} tokens of the last"
                        " forward pass, or activate_past_recording() before it"
                    )

    def clone(self) -> Sequences:
        """The same rows, which share their blocks until one side writes."""
        self._require_complete()
        self.commit()
        other = Sequences(self.pool)
        copies = {seq: self._fork(seq) for seq in dict.fromkeys(self.rows)}
        other.rows = [copies[seq] for seq in self.rows]
        other.pads, other.length = self.pads.copy(), self.length
        other.written, other.recording = list(self.written), self.recording
        other._told, other._reordered = list(self._told), self._reordered
        other._checkpoints = self._checkpoints
        return other

    # Token ids

    def reuse(self, prompts: Prompts, salt: bytes) -> NDArray[np.int32]:
        """Lets go of all rows, and holds the longest known beginning of each prompt instead.

        Every row then holds the same number of columns, since the model goes on at one. Rows of the
        same tokens are one sequence.

        Returns:
            How many tokens each row holds.
        """
        self.close()
        columns = self._known_columns(prompts, salt)
        hits = _tokens(prompts.pads, columns)
        ids: dict[bytes, int] = {}
        rows = []
        try:
            for tokens, hit in zip(prompts.tokens, hits, strict=True):
                key = tokens.tobytes()
                if key not in ids:
                    ids[key] = self.pool.add(tokens[: hit + 1] if hit else (), salt=salt)
                    self._complete(ids[key], tokens, int(hit), salt)
                rows.append(ids[key])
        except BaseException:
            self._free(list(ids.values()))
            self._checkpoints = None
            raise
        self.rows, self.pads, self._told = rows, prompts.pads, list(prompts.tokens)
        self.length = columns
        self.written = [columns] * len(self.written)
        return hits

    def _known_columns(self, prompts: Prompts, salt: bytes) -> int:
        """The most columns of which every row's tokens are found; at least one is left over."""
        columns = max(0, prompts.num_columns - 1)
        if not self.pool.layout.can_go_on:
            return 0
        while True:
            found = columns
            for tokens, pad in zip(prompts.tokens, prompts.pads, strict=True):
                if pad < columns:
                    head = tokens[: columns - pad + 1]  # the last one is never found
                    hit = min(manager.probe(head, salt=salt) for manager in self.pool.managers)
                    found = min(found, int(pad) + hit)
            if found == columns:
                return columns if _tokens(prompts.pads, columns).any() else 0
            columns = found

    def _complete(self, seq: int, tokens: NDArray[np.int32], hit: int, salt: bytes) -> None:
        """A sequence that holds ``hit`` tokens is told the others, and gets its states."""
        rest = tokens[hit + 1 :] if hit else tokens
        if len(rest):
            self.pool.manager.append([seq], rest, [len(rest)])
        if self.pool.checkpoints is not None:
            self._checkpoints = self.pool.checkpoints
            self._checkpoints.acquire(seq, tokens, hit, salt)
        for manager in self.pool.managers:
            if manager.num_cached(seq) != hit:
                raise PagedKvError(
                    f"[PagedCache.reuse] {manager.num_cached(seq)} tokens found; expected {hit}, as"
                    " the index said before"
                )

    def remember(self, sequences: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Tells the ids of the tokens that the rows hold: ``[batch, columns]`` with padding, as
        ``generate()`` returns them, and where the padding is."""
        known_ids = read_ids("PagedCache.remember", "sequences", sequences)
        self._require_complete()
        self.commit()
        if self._reordered:
            raise UnsupportedError(
                "[PagedCache.remember] rows that beam search reordered; expected rows that are the"
                " sequences of the batch"
            )
        if len(known_ids) != len(self.rows) or known_ids.shape[1] < self.length:
            raise ShapeError(
                f"[PagedCache.remember] sequences {tuple(sequences.shape)}; expected"
                f" ({len(self.rows)}, {self.length} or more)"
            )
        if mask is not None:
            self._require_padding(mask, known_ids.shape[1])
        ids = known_ids[:, : self.length]
        rows = [row[pad:] for row, pad in zip(ids, self.pads, strict=True)]
        for i, (row, told) in enumerate(zip(rows, self._told, strict=True)):
            known = min(len(told), len(row))
            if (row[:known] != told[:known]).any():
                raise ShapeError(
                    f"[PagedCache.remember] row {i} begins otherwise than the prompt that the cache"
                    " was made for; expected the same tokens"
                )
        for seq, row in zip(*_distinct(self.rows), strict=True):
            more = rows[row][self.pool.manager.num_tokens(seq) :]
            if len(more):
                self.pool.manager.append([seq], more, [len(more)])
        self._told = rows

    def _require_padding(self, mask: torch.Tensor, num_columns: int) -> None:
        """A mask, of the prompt or of all, must tell the padding that the cache was told."""
        shape = tuple(getattr(mask, "shape", ()))
        if len(shape) != 2 or shape[0] != len(self.rows) or shape[1] > num_columns:
            raise ShapeError(
                f"[PagedCache.remember] attention_mask: {type(mask).__name__} {shape}; expected a"
                f" tensor ({len(self.rows)}, {num_columns} or fewer)"
            )
        pads = leading_zeros("PagedCache.remember", mask)
        seen = min(shape[1], self.length)
        if (np.minimum(pads, seen) != np.minimum(self.pads, seen)).any():
            raise ShapeError(
                f"[PagedCache.remember] a mask with {pads.tolist()} columns of padding; expected"
                f" {self.pads.tolist()}, as the cache was told: pool.cache(input_ids,"
                " attention_mask) tells it"
            )

    def close(self) -> None:
        """Gives the blocks back; what is known of them stays findable."""
        rows = self.rows
        try:
            if rows and self._is_complete:
                self.commit()
        finally:
            self._free(sorted(set(rows)))
            self.rows, self.pads, self._told = [], np.zeros(0, np.int32), []
            self.length = self._pending = 0
            self.written = [0] * len(self.written)
            self._step, self._checkpoints = None, None
            self._reordered = self.is_unread = False

    def _fork(self, seq: int) -> int:
        copy = self.pool.fork(seq)
        if self._checkpoints is not None:
            self._checkpoints.fork(seq, copy)
        return copy

    def _free(self, ids: Sequence[int]) -> None:
        if ids:
            self.pool.manager.free(ids)
            if self._checkpoints is not None:
                self._checkpoints.free(ids)

    def _drop_checkpoints(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.free(list(dict.fromkeys(self.rows)))
            self._checkpoints = None


def _tokens(pads: NDArray[np.int32], columns: int) -> NDArray[np.int32]:
    """Of each row within so many columns."""
    return np.maximum(columns - pads, 0).astype(np.int32)


def _distinct(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Each sequence once, and the first row that is it."""
    first: dict[int, int] = {}
    for row, seq in enumerate(rows):
        first.setdefault(seq, row)
    return list(first), list(first.values())
