#pragma once

// BlockAllocator against its model, over the operations that a string of bytes spells.

#include <optional>
#include <utility>

#include "allocator_model.hpp"
#include "pagedkv/core/errors.hpp"

namespace pagedkv_fuzz {

class AllocatorRun {
 public:
  explicit AllocatorRun(std::span<const std::uint8_t> bytes)
      : in_(bytes), alloc_(in_.below(33)), model_(alloc_.capacity()) {}

  void run() {
    while (!in_.is_empty()) {
      step();
      model_.expect_same(alloc_);
      model_.expect_same_peak(alloc_);
    }
  }

 private:
  void step() {
    switch (in_.below(8)) {
      case 0: return allocate();
      case 1: return try_allocate();
      case 2: return allocate_n(in_.below(12));
      case 3: return acquire(some_ids());
      case 4: return acquire_one(some_id());
      case 5: return free(some_ids());
      case 6: return free_one(some_id());
      default: return move();
    }
  }

  /// Most often an id of this allocator, sometimes one just beyond or far away.
  BlockId some_id() {
    const auto choice = static_cast<BlockId>(in_.byte());
    return choice < 250 ? choice % static_cast<BlockId>(alloc_.capacity() + 1)
                        : choice * 0x01010101u;
  }
  Ids some_ids() {
    Ids ids(in_.below(6));
    for (auto& id : ids) id = some_id();
    return ids;
  }

  void allocate() {
    const auto expected = model_.take(1);
    try {
      const auto id = alloc_.allocate();
      PAGEDKV_FUZZ_CHECK(expected && expected->front() == id);
    } catch (const pagedkv::PoolExhaustedError& error) {
      PAGEDKV_FUZZ_CHECK(!expected && error.needed() == 1 && error.free() == 0);
    }
  }

  void try_allocate() {
    const auto expected = model_.take(1);
    const auto id = alloc_.try_allocate();
    PAGEDKV_FUZZ_CHECK(id.has_value() == expected.has_value());
    PAGEDKV_FUZZ_CHECK(!id || *id == expected->front());
  }

  void allocate_n(std::size_t n) {
    const auto expected = model_.take(n);
    Ids ids(n, 12345);
    try {
      alloc_.allocate_n(ids);
      PAGEDKV_FUZZ_CHECK(expected && ids == *expected);
    } catch (const pagedkv::PoolExhaustedError& error) {
      PAGEDKV_FUZZ_CHECK(!expected && error.needed() == n);
      PAGEDKV_FUZZ_CHECK(error.free() == model_.free_count());
      PAGEDKV_FUZZ_CHECK(ids == Ids(n, 12345));
    }
  }

  /// Runs `call`, which must name `refused` where there is one.
  template <class Call>
  void expect_refusal(std::optional<BlockId> refused, Call call) {
    try {
      call();
      PAGEDKV_FUZZ_CHECK(!refused);
    } catch (const pagedkv::InvalidSlotError& error) {
      PAGEDKV_FUZZ_CHECK(refused && error.slot() == *refused);
    }
  }

  void acquire(const Ids& ids) {
    expect_refusal(model_.acquire(ids), [&] { alloc_.acquire(ids); });
  }
  void acquire_one(BlockId id) {
    expect_refusal(model_.acquire({id}), [&] { alloc_.acquire(id); });
  }
  void free(const Ids& ids) {
    expect_refusal(model_.free(ids), [&] { alloc_.free(ids); });
  }
  void free_one(BlockId id) {
    expect_refusal(model_.free({id}), [&] { alloc_.free(id); });
  }
  void move() {
    BlockAllocator moved(std::move(alloc_));
    PAGEDKV_FUZZ_CHECK(!alloc_.try_allocate());  // NOLINT(bugprone-use-after-move)
    alloc_ = std::move(moved);
  }

  ByteSource in_;
  BlockAllocator alloc_;
  AllocatorModel model_;
};

/// @throws Mismatch where the allocator and its model disagree.
inline void run_allocator_operations(std::span<const std::uint8_t> bytes) {
  AllocatorRun(bytes).run();
}

}  // namespace pagedkv_fuzz
