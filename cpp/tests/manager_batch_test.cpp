// Batches: where their arrays lie, whose memory that is, and what the next step leaves of the last.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "expect_error.hpp"
#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Ints = std::vector<std::int32_t>;

struct alignas(64) Line {
  std::array<std::byte, 64> bytes;
};
std::span<std::byte> bytes_of(std::vector<Line>& lines) {
  return {lines.front().bytes.data(), lines.size() * sizeof(Line)};
}

ManagerOptions options_of(std::size_t num_blocks, std::size_t block_size) {
  ManagerOptions options;
  options.num_blocks = num_blocks;
  options.block_size = block_size;
  return options;
}

/// A manager that has admitted sequences of these lengths as 0, 1, 2 and so on.
class Engine {
 public:
  explicit Engine(const ManagerOptions& options, const Ints& lengths) : manager(options) {
    std::int32_t cached = 0;
    for (const std::int32_t length : lengths) {
      const SeqId id = manager.num_sequences();
      manager.add(id, Ints(static_cast<std::size_t>(length), static_cast<TokenId>(100 + id)));
      manager.acquire({&id, 1}, {&cached, 1});
      manager.schedule({&id, 1}, {&length, 1});
      manager.commit({&id, 1}, {&length, 1});
    }
  }
  Batch& schedule(const std::vector<SeqId>& ids, std::int32_t count, Batch* out,
                  std::size_t pad_to = 0) {
    Batch& batch = manager.schedule(ids, Ints(ids.size(), count), 0, out, pad_to);
    manager.commit(ids, Ints(ids.size(), count));
    return batch;
  }

  KVCacheManager manager;
};

Ints row(const Batch& batch, std::size_t i, std::size_t g = 0) {
  const auto width = batch.max_blocks_per_seq();
  const auto table = batch[g].block_tables.subspan(i * width, width);
  return {table.begin(), table.end()};
}
template <class T>
std::vector<T> first(std::span<T> values, std::size_t n) {
  return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(n)};
}

TEST(Batch, LaysItsArraysOutOnCacheLinesInTheBufferOfItsCaller) {
  const std::size_t bytes = Batch::bytes_needed(2, 5, 40, 7);
  std::vector<Line> lines(bytes / sizeof(Line) + 1);
  const auto buffer = bytes_of(lines);
  const Batch batch(2, 5, 40, 7, -1, buffer);
  std::vector<std::pair<const std::byte*, const std::byte*>> arrays;
  const auto add = [&](auto span, std::size_t size) {
    ASSERT_EQ(span.size(), size);
    const auto all = std::as_bytes(span);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(all.data()) % 64, 0u);
    ASSERT_TRUE(all.data() >= buffer.data() && all.data() + all.size() <= buffer.data() + bytes);
    arrays.emplace_back(all.data(), all.data() + all.size());
  };
  add(batch.seq_lens, 5);
  add(batch.query_start_loc, 6);
  add(batch.positions, 40);
  for (std::size_t g = 0; g < 2; ++g) {
    add(batch[g].block_tables, 35);
    add(batch[g].slot_mapping, 40);
    add(batch[g].kv_indptr, 6);
    add(batch[g].kv_indices, 35);
    add(batch[g].kv_last_page_len, 5);
    add(batch[g].kv_start, 5);
    add(batch[g].state_slots, 5);
  }
  std::ranges::sort(arrays);
  for (std::size_t i = 1; i < arrays.size(); ++i) {
    EXPECT_LE(arrays[i - 1].second, arrays[i].first) << "arrays overlap";
  }
  EXPECT_EQ(row(batch, 4, 1), Ints(7, -1));
}

TEST(Batch, RefusesABufferThatIsTooSmallOrBadlyAligned) {
  const std::size_t bytes = Batch::bytes_needed(1, 4, 4, 4);
  std::vector<Line> lines(bytes / sizeof(Line) + 1);
  const auto buffer = bytes_of(lines);
  expect_error<ShapeError>([&] { Batch(1, 4, 4, 4, -1, buffer.first(bytes - 1)); }, "Batch",
                           std::to_string(bytes - 1), std::to_string(bytes));
  expect_error<ShapeError>([&] { Batch(1, 4, 4, 4, -1, buffer.subspan(4)); }, "Batch", "buffer",
                           "64-byte aligned");
  EXPECT_NO_THROW(Batch(1, 4, 4, 4, -1, buffer.first(bytes)));
}

TEST(Batch, KeepsItsAddressesFromStepToStep) {
  Engine engine(options_of(64, 4), {5, 9, 2});
  Batch batch = engine.manager.new_batch(4, 16, 8);
  const auto addresses = [&] {
    return std::vector<const void*>{batch.seq_lens.data(),        batch.positions.data(),
                                    batch.query_start_loc.data(), batch[0].block_tables.data(),
                                    batch[0].slot_mapping.data(), batch[0].kv_indices.data()};
  };
  const auto before = addresses();
  for (int step = 0; step < 20; ++step) {
    EXPECT_EQ(&engine.schedule({0, 1, 2}, 1, &batch), &batch);
    EXPECT_EQ(addresses(), before);
  }
}

TEST(Batch, TellsKernelsBothKindsOfMetadata) {
  Engine engine(options_of(64, 4), {5, 8});
  Batch batch = engine.manager.new_batch(4, 16, 4);
  engine.schedule({0, 1}, 2, &batch, 3);
  EXPECT_EQ(batch.num_seqs, 3u);
  EXPECT_EQ(batch.num_new_tokens, 4u);
  EXPECT_EQ(batch.max_query_len, 2u);
  EXPECT_EQ(batch.max_seq_len, 10u);
  EXPECT_EQ(first(batch.seq_lens, 3), (Ints{7, 10, 0}));
  EXPECT_EQ(first(batch.query_start_loc, 4), (Ints{0, 2, 4, 4}));
  EXPECT_EQ(first(batch.positions, 4), (Ints{5, 6, 8, 9}));
  EXPECT_EQ(row(batch, 0), (Ints{0, 1, -1, -1}));
  EXPECT_EQ(row(batch, 1), (Ints{2, 3, 4, -1}));
  EXPECT_EQ(row(batch, 2), Ints(4, -1));
  EXPECT_EQ(first(batch[0].slot_mapping, 4), (std::vector<std::int64_t>{5, 6, 16, 17}));
  EXPECT_EQ(first(batch[0].kv_indptr, 4), (Ints{0, 2, 5, 5}));
  EXPECT_EQ(first(batch[0].kv_indices, 5), (Ints{0, 1, 2, 3, 4}));
  EXPECT_EQ(first(batch[0].kv_last_page_len, 3), (Ints{3, 2, 0}));
  EXPECT_EQ(first(batch[0].kv_start, 3), (Ints{0, 0, 0}));
}

TEST(Batch, RewritesRowsThatWereAwayForAStep) {
  Engine engine(options_of(64, 4), {10, 6, 16, 11});
  Batch batch = engine.manager.new_batch(2, 16, 8);
  engine.schedule({0, 1}, 1, &batch);
  engine.schedule({2}, 1, &batch);     // its live blocks overwrite those of the second row
  engine.schedule({3, 1}, 1, &batch);  // as many blocks before the second row as at first
  const auto table = engine.manager.block_ids(1);
  EXPECT_EQ(batch[0].kv_indptr[1], 3);
  EXPECT_TRUE(std::ranges::equal(batch[0].kv_indices.subspan(3, table.size()), table));
}

TEST(Batch, PadsTablesOfShorterSequencesThatTakeALongOnesRow) {
  Engine engine(options_of(64, 4), {20, 3});
  Batch batch = engine.manager.new_batch(2, 16, 8);
  engine.schedule({0, 1}, 1, &batch);
  engine.schedule({1}, 1, &batch, 2);
  EXPECT_EQ(row(batch, 0), (Ints{5, 7, -1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(row(batch, 1), Ints(8, -1));
  EXPECT_EQ(batch[0].slot_mapping[1], -1);
}

TEST(Batch, PadsWithTheNullBlockWhereThereIsOne) {
  auto options = options_of(64, 4);
  options.null_block = true;
  options.groups = {GroupSpec::sliding_window(4)};
  Engine engine(options, {12});
  Batch batch = engine.manager.new_batch(2, 16, 5);
  engine.schedule({0}, 1, &batch, 2);
  EXPECT_EQ(row(batch, 0), (Ints{0, 0, 3, 4, 0}));  // holes and padding
  EXPECT_EQ(row(batch, 1), Ints(5, 0));
  EXPECT_EQ(first(batch[0].kv_indices, 2), (Ints{3, 4}));
  EXPECT_EQ(batch[0].kv_start[0], 8);
}

TEST(Batch, RefusesAStepThatItHasNoRoomForAndChangesNothing) {
  Engine engine(options_of(64, 4), {5, 8});
  const std::vector<SeqId> ids{0, 1};
  const auto refuse = [&](Batch batch, std::int32_t count, std::size_t pad_to) {
    expect_error<CapacityError>(
        [&] { engine.manager.schedule(ids, Ints{count, count}, 0, &batch, pad_to); },
        "KVCacheManager.schedule", "blocks a sequence", "at most");
    EXPECT_EQ(engine.manager.num_scheduled(0), 5u);
    EXPECT_EQ(engine.manager.num_free_blocks(), 60u);
  };
  refuse(engine.manager.new_batch(1, 16, 8), 1, 0);  // rows
  refuse(engine.manager.new_batch(2, 16, 8), 1, 3);  // rows, padded
  refuse(engine.manager.new_batch(2, 3, 8), 2, 0);   // tokens
  refuse(engine.manager.new_batch(2, 16, 2), 1, 0);  // blocks
  refuse(Batch(2, 2, 16, 8, -1), 1, 0);              // of a manager with two groups
  expect_error<CapacityError>(
      [&] {
        Batch small = engine.manager.new_batch(1, 16, 8);
        engine.manager.schedule(ids, Ints{1, 1});
        engine.manager.step(ids, Ints{7, 7}, &small);
      },
      "KVCacheManager.step", "2 sequences", "at most");
  EXPECT_EQ(engine.manager.num_committed(0), 5u);
  EXPECT_EQ(engine.manager.num_tokens(0), 5u);
}

}  // namespace
