#pragma once

// What a model of an eviction policy answers: the calls of EvictionQueue.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "pagedkv/core/block_allocator.hpp"

namespace pagedkv_test {

using pagedkv::BlockId;
using CanGo = std::function<bool(BlockId)>;

class EvictionModel {
 public:
  virtual ~EvictionModel() = default;
  virtual void insert(BlockId b, std::uint32_t key, std::uint32_t depth, int level) = 0;
  virtual void change_level(BlockId b, int to) = 0;
  virtual void hit(BlockId) {}
  virtual void acquire(BlockId b) = 0;
  virtual void release(BlockId b, bool leaf) = 0;
  virtual bool supersede(BlockId) { return false; }
  virtual void remove(BlockId b) = 0;
  virtual void reconsider(BlockId b) = 0;
  virtual std::optional<BlockId> victim(const CanGo& can_go) = 0;
  [[nodiscard]] virtual std::size_t evictable_count() const = 0;
};

}  // namespace pagedkv_test
