"""A tutorial to read from top to bottom and to run: blocks, tables, the manager, prefix reuse,
attention checked against its definition, and the memory that all this saves.

It needs NumPy alone. Editors that know ``# %%`` run it section by section.
"""

# %% [markdown]
# ## Blocks
#
# Memory for keys and values is cut into blocks of a few tokens. A `BlockAllocator` hands out the
# ids of blocks and counts who holds each one. It owns no memory: an id is an index into whatever
# array you have.

# %%
import numpy as np

from pagedkv import BlockAllocator, BlockTable, KVCacheManager, PoolExhaustedError, ops

alloc = BlockAllocator(6)
first, second = alloc.allocate(), alloc.allocate()
print("two blocks:", first, second)

alloc.acquire([first])  # somebody else holds it, too
alloc.free([first, second])
print("held once more:", first in alloc, "- given back:", second not in alloc)

try:
    alloc.allocate_n(6)
except PoolExhaustedError as error:  # all or none: nothing has been taken
    print(f"needed {error.needed}, free {error.free}, in use {alloc.in_use}")

# %% [markdown]
# ## Tables
#
# A block table says which physical block holds which tokens. With blocks of 4, tokens 0 to 3 are in
# entry 0, tokens 4 to 7 in entry 1. Ids need not be in order, so a sequence grows wherever there is
# room.

# %%
BLOCK_SIZE = 4
table = BlockTable(num_layers=1, block_size=BLOCK_SIZE)
for block in (5, 2, 4):
    table.append_block(0, block)
print("table:", table[0], "- room for", table.token_capacity(0), "tokens")

position = 6
slot = table.get_block(0, position // BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE
print(f"token {position} is in slot {slot}")

# %% [markdown]
# ## The manager
#
# `KVCacheManager` keeps the tables of many sequences over one pool. An engine calls it once a step
# for the whole batch:
#
# 1. `add` registers a prompt, `acquire` admits it;
# 2. `schedule` hands out slots for new tokens, and gives a batch for the kernels;
# 3. the model runs;
# 4. `step` says that the tokens are written, tells the sampled ones, and schedules them.

# %%
NUM_BLOCKS = 64
manager = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE)
system = list(range(100, 110))  # ten tokens that both prompts begin with
prompts = {1: [*system, 1, 2, 3], 2: [*system, 7]}

manager.add(1, prompts[1])
manager.acquire([1])
batch = manager.schedule([1], [len(prompts[1])])
print("positions:   ", batch.positions)
print("slot mapping:", batch.slot_mapping)
print("block table: ", batch.block_tables[0, :4])

# %% [markdown]
# ## Attention
#
# The model of this tutorial has one layer. Queries, keys and values of a token come from its id and
# its position: enough to see whether the right ones are read. `write_kv` puts the new keys and
# values into their slots, `paged_attention` reads them through the tables.

# %%
KV_HEADS, HEADS, HEAD_DIM = 2, 8, 32
cache_shape = (NUM_BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_DIM)
k_cache, v_cache = np.zeros(cache_shape, np.float32), np.zeros(cache_shape, np.float32)


def project(tokens, positions, num_heads, seed):
    """``[num_tokens, num_heads, head_dim]``"""
    angles = np.random.default_rng(seed).standard_normal((2, num_heads * HEAD_DIM))
    rows = np.cos(np.outer(tokens, angles[0]) + np.outer(positions, angles[1]))
    return rows.astype(np.float32).reshape(-1, num_heads, HEAD_DIM)


def forward(batch, tokens):
    """The layer's result for the new tokens of a batch, one sequence after the other."""
    ops.copy_blocks([k_cache, v_cache], batch.copies)  # what a shared block needs before a write
    q, k, v = (
        project(tokens, batch.positions, heads, seed)
        for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))
    )
    ops.write_kv(k, v, k_cache, v_cache, batch.slot_mapping)
    starts = batch.query_start_loc
    return ops.paged_attention(
        q, k_cache, v_cache, batch.block_tables, batch.seq_lens, query_start_loc=starts
    )


def dense(tokens):
    """The definition: the last token's query over all keys of the sequence, without a cache."""
    positions = np.arange(len(tokens))
    q, k, v = (
        project(tokens, positions, heads, seed)
        for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))
    )
    k, v = (np.repeat(rows, HEADS // KV_HEADS, axis=1) for rows in (k, v))
    scores = np.einsum("hd,nhd->hn", q[-1], k) * HEAD_DIM**-0.5
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("hn,nhd->hd", weights, v)


out = forward(batch, prompts[1])
error = np.abs(out[-1] - dense(prompts[1])).max()
print("paged attention is dense attention:", error < 1e-5)

# %% [markdown]
# ## Prefix reuse
#
# `commit` says that the keys and values of the prompt are written. From then on others find its
# full blocks. The second prompt begins with the same ten tokens: two full blocks are shared, and
# the two tokens of the third block that are the same are copied. One token is left to compute.

# %%
manager.commit([1], [len(prompts[1])])
manager.add(2, prompts[2])
cached = int(manager.acquire([2])[0])
print(f"{cached} of {len(prompts[2])} tokens of the second prompt were cached")

batch = manager.schedule([2], [len(prompts[2]) - cached])
print("its table:", batch.block_tables[0, :3], "- to copy first:", batch.copies.tolist())
out = forward(batch, prompts[2][cached:])
error = np.abs(out[-1] - dense(prompts[2])).max()
print("attention over reused keys is the same:", error < 1e-5)

# %% [markdown]
# ## Decode
#
# Now both sequences gain a token a step. `step` is commit, append and schedule in one call.

# %%
texts = {seq: list(prompt) for seq, prompt in prompts.items()}
manager.commit([2], [len(prompts[2]) - cached])
sampled = [40, 41]  # the token that a model would have chosen
manager.append([1, 2], sampled)
batch = manager.schedule([1, 2], [1, 1])
for _ in range(20):
    for seq, token in zip(texts, sampled, strict=True):
        texts[seq].append(token)
    out = forward(batch, sampled)
    worst = max(
        np.abs(row - dense(text)).max() for row, text in zip(out, texts.values(), strict=True)
    )
    if worst >= 1e-5:
        raise SystemExit(f"attention is off by {worst}")
    sampled = [int(row[0].argmax()) for row in out]
    batch = manager.step([1, 2], sampled)
print("lengths after 20 steps:", [len(text) for text in texts.values()])

# %% [markdown]
# ## Memory
#
# Two sequences hold 33 and 31 tokens. A cache that reserves room for 128 tokens a request would
# hold 256 slots. Here they hold fewer slots than they have tokens, because two blocks are shared.

# %%
held = manager.stats().num_blocks - manager.num_free_blocks
tokens = sum(len(text) for text in texts.values())
shared = set(manager.block_ids(1).tolist()) & set(manager.block_ids(2).tolist())
print(f"{tokens} tokens in {held} blocks: {held * BLOCK_SIZE} slots, where 256 were reserved")
print("blocks that both hold:", sorted(shared))

manager.free([1, 2])
manager.check()  # every invariant, counted anew
print("blocks free at the end:", manager.num_free_blocks)
