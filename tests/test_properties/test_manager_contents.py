"""Managers of every mix of groups: sequences read back what they and their prefixes wrote."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.kv_contents import Engine, Group, Stream

from pagedkv import (
    FullAttention,
    KVCacheManager,
    PoolExhaustedError,
    SlidingWindow,
    Ssm,
)

FULL = st.builds(Group, st.just("full"), st.sampled_from([2, 3, 4]))
WINDOW = st.builds(
    Group, st.just("window"), st.sampled_from([2, 3, 4]), st.integers(1, 7), st.integers(0, 5)
)
SSM = st.builds(Group, st.just("ssm"), st.sampled_from([2, 4]))
MIXES = st.one_of(
    st.tuples(FULL),
    st.tuples(WINDOW),
    st.tuples(SSM),
    st.tuples(FULL, WINDOW),
    st.tuples(FULL, SSM),
    st.tuples(WINDOW, FULL, SSM),
    st.tuples(FULL, WINDOW, WINDOW),
)
TEXTS = ([], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 4])


def spec_of(group: Group, intervals: int) -> Any:
    if group.kind == "full":
        return FullAttention(block_size=group.block_size)
    if group.kind == "window":
        return SlidingWindow(group.window, group.sinks, block_size=group.block_size)
    return Ssm(group.block_size * intervals, block_size=group.block_size)


class Contents(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(4, 40),
        groups=MIXES,
        intervals=st.integers(1, 2),
        null_block=st.booleans(),
        partial_reuse=st.booleans(),
    )
    def make(
        self, num_blocks: int, groups: tuple[Group, ...], intervals: int, **options: Any
    ) -> None:
        self.groups = list(groups)
        self.has_ssm = any(group.kind == "ssm" for group in groups)
        self.manager = KVCacheManager(
            num_blocks,
            groups=[spec_of(group, intervals) for group in groups],
            num_host_blocks=20,
            **options,
        )
        self.engine = Engine(self.manager, self.groups)
        self.streams: dict[int, Stream] = {}
        self.status: dict[int, str] = {}
        self.out = self.manager.new_batch(8, 128, 80)
        self.last_id = 0
        self.leases: list[int] = []

    def draw_id(self, data: st.DataObject, status: str) -> int | None:
        ids = [i for i in self.streams if self.status[i] == status]
        return data.draw(st.sampled_from(ids), "id") if ids else None

    def draw_ids(self, data: st.DataObject, status: str) -> list[int]:
        ids = [i for i in self.streams if self.status[i] == status]
        return data.draw(st.lists(st.sampled_from(ids), unique=True, max_size=4)) if ids else []

    def extend(self, data: st.DataObject, seq_id: int, length: int) -> None:
        """Settles what the model will sample, up to a length."""
        tokens = self.streams[seq_id].tokens
        while len(tokens) < length:
            # Mostly what the texts go on with, so that prefixes meet again.
            tokens.append(data.draw(st.sampled_from([1 + len(tokens) % 8, 1]), "token"))

    @rule(
        text=st.sampled_from(TEXTS),
        end=st.lists(st.integers(1, 3), max_size=3),
        salt=st.sampled_from([b"", b"", b"x"]),
        store=st.sampled_from([True, True, False]),
        priority=st.sampled_from([0, 0, 7]),
        ttl=st.sampled_from([None, None, 2]),
    )
    def add(self, text: list[int], end: list[int], salt: bytes, **options: Any) -> None:
        self.last_id += 1
        self.streams[self.last_id] = Stream(salt, text + end)
        self.manager.add(self.last_id, text + end, salt=salt, **options)
        self.status[self.last_id] = "waiting"
        self.acquire_one(self.last_id)

    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        seq_id = self.draw_id(data, "waiting")
        if seq_id is not None:
            self.acquire_one(seq_id)

    def acquire_one(self, seq_id: int) -> None:
        stream = self.streams[seq_id]
        known = stream.tokens[: self.manager.num_tokens(seq_id)]
        probed = self.manager.probe(known, salt=stream.salt)
        (cached,) = self.manager.acquire([seq_id]).tolist()
        assert cached == probed <= max(len(known) - 1, 0)
        self.status[seq_id] = "running"

    @rule(data=st.data(), most=st.sampled_from([1, 3, 8, 30]), commits=st.booleans())
    def schedule(self, data: st.DataObject, most: int, commits: bool) -> None:
        """Chunks of prompts, and a few tokens beyond what is known."""
        ids = self.draw_ids(data, "running")
        m = self.manager
        counts = []
        for i in ids:
            left = m.num_tokens(i) - m.num_scheduled(i)
            counts.append(min(left, most) if left > 0 else data.draw(st.integers(0, 3), "ahead"))
        free = m.num_free_blocks
        fits = m.fit(ids, counts)
        try:
            batch = m.schedule(ids, counts, out=self.out)
        except PoolExhaustedError:
            assert fits < len(ids)
            assert m.num_free_blocks == free
            return
        assert fits == len(ids)
        for i in ids:
            self.extend(data, i, m.num_scheduled(i))
        self.engine.run(batch, [self.streams[i] for i in ids])
        if commits:
            self.commit_and_append(ids)

    def commit_and_append(self, ids: list[int]) -> None:
        m = self.manager
        m.commit(ids, [m.num_scheduled(i) - m.num_committed(i) for i in ids])
        for i in ids:
            more = self.streams[i].tokens[m.num_tokens(i) : m.num_scheduled(i)]
            m.append([i], more, [len(more)])

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.commit_and_append(self.draw_ids(data, "running"))

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        m = self.manager
        ids = [i for i in self.draw_ids(data, "running") if m.num_scheduled(i) > m.num_committed(i)]
        for i in ids:
            self.extend(data, i, max(m.num_tokens(i), m.num_scheduled(i)) + 1)
        tokens = [self.streams[i].tokens[m.num_tokens(i)] for i in ids]
        before = [m.num_committed(i) for i in ids]
        try:
            batch = m.step(ids, tokens, out=self.out)
        except PoolExhaustedError:
            assert [m.num_committed(i) for i in ids] == before
            return
        self.engine.run(batch, [self.streams[i] for i in ids])

    @rule(data=st.data(), length=st.integers(0, 20))
    def truncate(self, data: st.DataObject, length: int) -> None:
        seq_id = self.draw_id(data, "running")
        if seq_id is None:
            return
        m = self.manager
        scheduled = m.num_scheduled(seq_id)
        (reached,) = m.truncate([seq_id], [length]).tolist()
        assert reached <= min(length, scheduled)
        assert reached == m.num_scheduled(seq_id) >= m.num_committed(seq_id)
        if all(group.kind == "full" for group in self.groups):
            assert reached == min(length, scheduled)
        # What was known stays, what was only sampled ahead is sampled anew.
        del self.streams[seq_id].tokens[max(m.num_tokens(seq_id), reached) :]

    @precondition(lambda self: not self.has_ssm)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        seq_id = self.draw_id(data, "running")
        if seq_id is None:
            return
        m = self.manager
        committed = m.num_committed(seq_id)
        drafts = m.num_scheduled(seq_id) - committed
        known = max(m.num_tokens(seq_id) - committed, 0)
        fixed = list(range(min(known, drafts)))
        free = data.draw(st.sets(st.integers(known, drafts - 1))) if drafts > known else set()
        path = fixed + sorted(free)
        stream = self.streams[seq_id]
        if drafts > known:
            del stream.tokens[committed + known :]
            self.extend(data, seq_id, committed + len(path))
        self.engine.accept(seq_id, path, stream)
        assert m.num_committed(seq_id) == m.num_scheduled(seq_id) == committed + len(path)

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        seq_id = self.draw_id(data, "running")
        m = self.manager
        if seq_id is None or m.num_scheduled(seq_id) != m.num_committed(seq_id):
            return
        self.last_id += 1
        m.fork(seq_id, self.last_id)
        stream = self.streams[seq_id]
        kept = max(m.num_tokens(seq_id), m.num_committed(seq_id))
        self.streams[self.last_id] = Stream(stream.salt, stream.tokens[:kept])
        self.status[self.last_id] = "running"

    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        self.manager.preempt(ids)
        for i in ids:
            self.status[i] = "waiting"

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        for status in ("running", "waiting", "swapped"):
            ids = self.draw_ids(data, status)
            self.manager.free(ids)
            for i in ids:
                del self.streams[i], self.status[i]

    @rule(data=st.data())
    def swap_out(self, data: st.DataObject) -> None:
        m = self.manager
        ids = [
            i for i in self.draw_ids(data, "running") if m.num_scheduled(i) == m.num_committed(i)
        ]
        try:
            self.engine.swap_out(ids)
        except PoolExhaustedError:
            return
        for i in ids:
            self.status[i] = "swapped"

    @rule(data=st.data())
    def swap_in(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "swapped")
        try:
            self.engine.swap_in(ids)
        except PoolExhaustedError:
            return
        for i in ids:
            self.status[i] = "running"

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        seq_id = self.draw_id(data, "running")
        if seq_id is not None:
            self.leases.append(self.manager.hold(seq_id, self.manager.num_committed(seq_id)))

    @rule()
    def release(self) -> None:
        if self.leases:
            self.manager.release(self.leases.pop())

    @rule(n=st.integers(0, 5))
    def evict(self, n: int) -> None:
        self.manager.evict(n)

    @rule()
    def compact(self) -> None:
        self.engine.compact()

    @invariant()
    def the_books_are_right(self) -> None:
        self.manager.check()

    @invariant()
    def windows_are_bounded(self) -> None:
        """Of a window, no more than it, the sinks, what is in flight and one block at each end."""
        for i, status in self.status.items():
            for g, group in enumerate(self.groups):
                if group.kind != "window" or status != "running":
                    continue
                ahead = self.manager.num_scheduled(i) - self.manager.num_committed(i)
                held = sum(block != -1 for block in self.manager.block_ids(i, g).tolist())
                size = group.block_size
                assert held <= -(-group.sinks // size) + (group.window + ahead + size) // size + 1

    def teardown(self) -> None:
        for status in ("running", "waiting", "swapped"):
            self.manager.free([i for i in self.streams if self.status[i] == status])
        for lease in self.leases:
            self.manager.release(lease)
        self.manager.reset()
        self.manager.check()
        assert self.manager.usage == 0.0


TestContents = Contents.TestCase
TestContents.settings = settings(settings.default, stateful_step_count=60)
