"""Decode steps: what the manager schedules goes to the operations as it is. The model is a
stand-in, one layer of attention whose queries, keys and values are cosines of a token's id."""

import numpy as np

from pagedkv import Batch, KVCacheManager, ops

NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEADS, HEAD_DIM = 32, 4, 2, 8, 64


def project(tokens: list[int], num_heads: int, weight: float) -> np.ndarray:
    channels = np.arange(1, num_heads * HEAD_DIM + 1)
    rows = np.cos(weight * np.outer(np.array(tokens) + 1, channels))
    return rows.astype(np.float32).reshape(-1, num_heads, HEAD_DIM)


class Layer:
    def __init__(self) -> None:
        shape = (NUM_BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_DIM)
        self.k, self.v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def forward(self, batch: Batch, tokens: list[int]) -> np.ndarray:
        """The new tokens' keys and values are written; their queries see what their sequences
        hold."""
        q = project(tokens, HEADS, 0.013)
        k, v = project(tokens, KV_HEADS, 0.007), project(tokens, KV_HEADS, 0.1)
        ops.write_kv(k, v, self.k, self.v, batch.slot_mapping)
        tables, starts = batch.block_tables, batch.query_start_loc
        return ops.paged_attention(
            q, self.k, self.v, tables, batch.seq_lens, query_start_loc=starts
        )


def sample(batch: Batch, out: np.ndarray) -> list[int]:
    """The channel of the first head that is largest, for the last token of each sequence."""
    return out[batch.query_start_loc[1:] - 1, 0].argmax(axis=-1).tolist()


def main() -> None:
    manager = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE)
    ids, prompts = [0, 1], [[1, 2, 3, 4, 5, 6, 7, 8, 9], [40, 41]]
    for seq, prompt in zip(ids, prompts, strict=True):
        manager.add(seq, prompt)
    manager.acquire(ids)
    layer, tokens = Layer(), prompts[0] + prompts[1]
    batch = manager.schedule(ids, [len(prompt) for prompt in prompts])
    for step in range(6):
        tokens = sample(batch, layer.forward(batch, tokens))
        first, second = batch.seq_lens
        print(f"step {step}: lengths {first} {second}, next {tokens[0]} {tokens[1]}")
        batch = manager.step(ids, tokens)  # commit, append, schedule


if __name__ == "__main__":
    main()
