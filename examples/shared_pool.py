"""Two sequences keep their keys and values in one pool of blocks: both grow a token at a time, and
the blocks of the one that ends serve the next."""

import numpy as np

from pagedkv import BlockAllocator, KvCache

HEADS, HEAD_DIM, BLOCK_SIZE = 2, 4, 16


def append(cache: KvCache, tokens: int, value: float) -> None:
    k = np.full((tokens, HEADS, HEAD_DIM), value, dtype=np.float32)
    cache.append(k, -k)


def show(name: str, cache: KvCache) -> None:
    print(f"{name}: {cache.len} tokens in blocks", *cache.paged_block_indices)


def main() -> None:
    blocks = BlockAllocator(8)
    first = KvCache.paged(8, HEADS, HEAD_DIM, BLOCK_SIZE, max_blocks_per_seq=4, allocator=blocks)
    second = first.share()

    append(first, 20, 1.0)  # the prompts
    append(second, 16, 2.0)
    for _ in range(3):  # one token a step
        append(first, 1, 1.0)
        append(second, 1, 2.0)
    show("first", first)
    show("second", second)

    first.release()
    with second.share() as third:
        append(third, 40, 3.0)
        show("third", third)
        print(f"{blocks.free_count} of {blocks.capacity} blocks free")


if __name__ == "__main__":
    main()
