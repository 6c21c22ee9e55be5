"""JAX computes, pagedkv keeps: a decode step under `jax.jit` whose attention is over a paged cache.

Arrays of JAX do not change, so caches are pagedkv's own. JAX's arrays go into the operations where
they lie, by DLPack; JAX sees a cache where it lies, because its memory begins at a multiple of 64
bytes. Such a view is for reading, and only until the cache is written to again."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from pagedkv import Batch, BlockAllocator, KvCache, KVCacheManager, ops

NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEADS, HEAD_DIM = 32, 4, 2, 8, 64
allocator = BlockAllocator(NUM_BLOCKS)
pool = KvCache.paged(NUM_BLOCKS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, NUM_BLOCKS, allocator)


def write_and_attend(q, k, v, slots, tables, lens, starts):
    """What JAX cannot do: writes new tokens, then attends."""
    ops.write_kv(k, v, pool.k, pool.v, slots)
    return ops.paged_attention(q, pool.k, pool.v, tables, lens, query_start_loc=starts)


@jax.jit
def forward(tokens, slots, tables, lens, starts):
    """One layer, its queries, keys and values cosines of a token's id; the last ones' channels."""

    def project(heads, weight):
        rows = jnp.cos(weight * jnp.outer(tokens + 1.0, jnp.arange(1, heads * HEAD_DIM + 1)))
        return rows.reshape(-1, heads, HEAD_DIM)

    q, k, v = project(HEADS, 0.013), project(KV_HEADS, 0.007), project(KV_HEADS, 0.1)
    result = jax.ShapeDtypeStruct(q.shape, q.dtype)
    arrays = (q, k, v, slots, tables, lens, starts)
    # In order: a step reads what the one before it wrote.
    out = io_callback(write_and_attend, result, *arrays, ordered=True)
    return out[starts[1:] - 1, 0].argmax(axis=-1)


def step(batch: Batch, tokens: list[int]) -> list[int]:
    # Slots are int64, which JAX has only where it is asked for them; these fit in int32.
    slots = batch.slot_mapping.astype(np.int32)
    tables, starts = batch.block_tables, batch.query_start_loc
    return forward(jnp.asarray(tokens), slots, tables, batch.seq_lens, starts).tolist()


def main() -> None:
    manager = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE)
    ids, prompts = [0, 1], [[1, 2, 3, 4, 5, 6, 7, 8, 9], [40, 41]]
    for seq, prompt in zip(ids, prompts, strict=True):
        manager.add(seq, prompt)
    manager.acquire(ids)
    batch, tokens = manager.schedule(ids, [9, 2]), prompts[0] + prompts[1]
    for number in range(6):
        tokens = step(batch, tokens)
        first, second = batch.seq_lens
        print(f"step {number}: lengths {first} {second}, next {tokens[0]} {tokens[1]}")
        batch = manager.step(ids, tokens)

    seen = jnp.from_dlpack(pool.k, copy=False)
    same = seen.unsafe_buffer_pointer() == pool.k.ctypes.data
    print(f"the cache as JAX sees it: {seen.shape} {seen.dtype}, the same memory: {same}")
    q = jnp.ones((2, HEADS, HEAD_DIM))  # goes in as it is
    out = jnp.from_dlpack(ops.paged_attention(q, pool.k, pool.v, batch.block_tables, [9, 2]))
    keys, values = (c[batch.block_tables[1, 0], :, :2] for c in (seen, jnp.from_dlpack(pool.v)))
    weights = jax.nn.softmax(keys.sum(axis=-1) / HEAD_DIM**0.5)
    expected = jnp.repeat(jnp.einsum("ht,htd->hd", weights, values), HEADS // KV_HEADS, axis=0)
    print(f"attention as JAX computes it: {bool(jnp.allclose(out[1], expected, atol=1e-5))}")


if __name__ == "__main__":
    main()
