"""A scheduler loop on KVCacheManager: continuous batching, chunked prefill, prefix reuse, the
newest preempted first. The model is a stand-in: it keeps one number a token and reads it by the
tables."""

from collections import deque
from contextlib import suppress

import numpy as np

from pagedkv import Batch, KVCacheManager, PoolExhaustedError

NUM_BLOCKS, BLOCK_SIZE, CHUNK, MAX_RUNNING, NUM_OUTPUT = 20, 4, 8, 4, 12


def forward(batch: Batch, cache: np.ndarray, texts: list[list[int]]) -> list[int]:
    """One step of the model: a next token for each sequence of the batch."""
    for source, copy in batch.copies:
        cache[copy] = cache[source]
    starts = batch.query_start_loc
    rows = np.repeat(np.arange(batch.num_seqs), np.diff(starts))
    tokens = [texts[row][p] for row, p in zip(rows, batch.positions, strict=True)]
    cache.reshape(-1)[batch.slot_mapping] = tokens
    contexts = [cache[table].reshape(-1) for table in batch.block_tables]
    return [next_token(c[:n]) for c, n in zip(contexts, batch.seq_lens, strict=True)]


def next_token(context: np.ndarray) -> int:
    return int(context @ np.arange(1, len(context) + 1) % 97)


def serve(prompts: list[list[int]]) -> tuple[list[list[int]], KVCacheManager]:
    manager = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE)
    cache = np.zeros((NUM_BLOCKS, BLOCK_SIZE), np.int64)
    texts = [list(prompt) for prompt in prompts]
    last = [len(prompt) + NUM_OUTPUT for prompt in prompts]
    for seq, prompt in enumerate(prompts):
        manager.add(seq, prompt)

    def decodes(s: int) -> bool:
        """Its prompt is computed, and the token to come is not its last."""
        return manager.num_scheduled(s) == len(texts[s]) < last[s] - 1

    waiting, running = deque(range(len(prompts))), list[int]()
    while waiting or running:
        while waiting and len(running) < MAX_RUNNING:  # admit
            if manager.num_free_blocks * BLOCK_SIZE <= len(texts[waiting[0]]):
                break
            running.append(waiting.popleft())
            cached = manager.acquire(running[-1:])[0]
            print(f"request {running[-1]}: {cached} of {len(texts[running[-1]])} tokens cached")
        counts = [min(CHUNK, len(texts[s]) - manager.num_scheduled(s)) for s in running]
        while manager.fit(running, counts) < len(running):  # preempt
            waiting.appendleft(running.pop())
            manager.preempt([waiting[0]])
            counts.pop()
        batch = manager.schedule(running, counts)
        sampled = forward(batch, cache, [texts[s] for s in running])
        with suppress(PoolExhaustedError):  # of step: nothing has changed then
            while running and all(decodes(s) for s in running):
                batch = manager.step(running, sampled)  # commit, append, schedule
                for s, token in zip(running, sampled, strict=True):
                    texts[s].append(token)
                counts = [1] * len(running)
                sampled = forward(batch, cache, [texts[s] for s in running])
        manager.commit(running, counts)
        for s, token in zip(running, sampled, strict=True):
            if manager.num_committed(s) == len(texts[s]):  # not within its prompt
                texts[s].append(token)
                manager.append([s], [token])
        manager.free([s for s in running if len(texts[s]) == last[s]])
        running = [s for s in running if len(texts[s]) < last[s]]
    return texts, manager


def main() -> None:
    system = list(range(1, 19))
    prompts = [system + [50 + request] * (6 + request) for request in range(6)]
    texts, manager = serve(prompts)
    for request, text in enumerate(texts):
        for length in range(len(prompts[request]), len(text)):
            if text[length] != next_token(np.array(text[:length])):
                raise SystemExit(f"request {request}: token {length} is wrong")
    stats = manager.stats()
    print(f"{stats.hit_tokens} of {stats.queried_tokens} tokens were cached")
    print(f"{stats.preemptions} preemptions, {stats.block_copies} block copies")


if __name__ == "__main__":
    main()
