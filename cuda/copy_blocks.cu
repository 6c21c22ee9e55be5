#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/error_word.hpp"
#include "cuda/host.hpp"
#include "cuda/kernels/copy_units.cuh"
#include "cuda/launch.hpp"
#include "cuda/operations.hpp"

namespace pagedkv::cuda {
namespace {

/// What a pair of ids copies.
enum class Unit { block, slot };

Units units(const CacheView& cache) {
  return {cache.data, cache.block_stride, cache.head_stride, cache.token_stride};
}

UnitCopy unit_copy(const CacheView& from, const CacheView& to, Unit unit) {
  const int bytes = std::min({row_alignment(from), row_alignment(to),
                              common_alignment({static_cast<std::int64_t>(from.row_bytes())})});
  const std::int64_t row_vectors = static_cast<std::int64_t>(from.row_bytes()) / bytes;
  const std::int64_t tokens = unit == Unit::block ? from.block_size : 1;
  const std::int64_t in_block = unit == Unit::block ? 1 : from.block_size;
  return {units(from),
          units(to),
          from.num_blocks * in_block,
          to.num_blocks * in_block,
          from.num_heads * tokens * row_vectors,
          Divider(row_vectors),
          Divider(tokens),
          bytes};
}

/// Copies units of each `copies`, in as many launches as their parameters take.
void put(std::span<const UnitCopy> copies, const IndexPairs& pairs, Unit unit, bool in_order,
         std::int64_t block_size, const Stream& stream, const char* where) {
  const CurrentDevice current(where, stream.device);
  const auto params = std::make_unique<CopyParams>();
  params->in_block = Divider(unit == Unit::block ? 1 : block_size);
  params->mistake = unit == Unit::block ? Mistake::block : Mistake::slot;
  params->errors = error_word(stream, where);
  params->in_order = in_order;
  const auto* const given = reinterpret_cast<const IndexPair*>(pairs.data);
  if (pairs.on_device) params->device_pairs = given;
  const std::int64_t step = pairs.on_device ? pairs.count : kPairsAtATime;
  for (std::size_t first = 0; first < copies.size(); first += kCopiesAtATime) {
    const std::size_t count = std::min<std::size_t>(kCopiesAtATime, copies.size() - first);
    std::int64_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
      params->copies[i] = copies[first + i];
      most = std::max(most, copies[first + i].num_vectors);
    }
    constexpr std::int64_t each = std::int64_t{kBlockThreads} * kOwned;
    const auto blocks = static_cast<unsigned>((most + each - 1) / each);
    for (std::int64_t pair = 0; pair < pairs.count; pair += step) {
      params->num_pairs = std::min(step, pairs.count - pair);
      if (!pairs.on_device) std::copy_n(given + pair, params->num_pairs, params->pairs);
      const auto parallel = static_cast<unsigned>(in_order ? 1 : params->num_pairs);
      launch(where, &copy_units, {blocks, static_cast<unsigned>(count), parallel}, kBlockThreads, 0,
             stream.handle, *params);
    }
  }
}

static_assert(sizeof(IndexPair) == 2 * sizeof(std::int64_t));

std::span<const IndexPair> host_pairs(const IndexPairs& pairs) {
  return {reinterpret_cast<const IndexPair*>(pairs.data), static_cast<std::size_t>(pairs.count)};
}

void expect_pairs(const char* where, const IndexPairs& pairs) {
  if (pairs.count < 0 || (pairs.data == nullptr && pairs.count != 0)) {
    pagedkv::detail::throw_shape(
        where, std::to_string(pairs.count) + " pairs without data; expected a pair each");
  }
}

void copy_within(std::span<const CacheView> caches, const IndexPairs& pairs, Unit unit,
                 const Stream& stream, const char* where) {
  if (caches.empty() || pairs.count == 0) return;
  std::vector<UnitCopy> copies;
  copies.reserve(caches.size());
  for (const CacheView& cache : caches) copies.push_back(unit_copy(cache, cache, unit));
  const bool in_order = pairs.on_device || !independent(host_pairs(pairs), true);
  put(copies, pairs, unit, in_order, caches[0].block_size, stream, where);
}

}  // namespace

void copy_blocks(std::span<const CacheView> caches, const IndexPairs& pairs, const Stream& stream,
                 const char* where) {
  expect_pairs(where, pairs);
  if (pairs.on_device) {
    check_copy_blocks_arrays(where, caches);
  } else {
    check_copy_blocks(where, caches, host_pairs(pairs));
  }
  copy_within(caches, pairs, Unit::block, stream, where);
}

void move_slots(std::span<const CacheView> caches, const IndexPairs& pairs, const Stream& stream,
                const char* where) {
  expect_pairs(where, pairs);
  if (pairs.on_device) {
    check_move_slots_arrays(where, caches);
  } else {
    check_move_slots(where, caches, host_pairs(pairs));
  }
  copy_within(caches, pairs, Unit::slot, stream, where);
}

namespace {

/// The cache as kernels reach it: on the device, or pinned; else without data.
CacheView reachable(const char* where, CacheView cache) {
  cudaPointerAttributes attributes{};
  expect_success(where, "cudaPointerGetAttributes",
                 cudaPointerGetAttributes(&attributes, cache.data));
  const bool known = attributes.type != cudaMemoryTypeUnregistered;
  cache.data = known ? static_cast<std::byte*>(attributes.devicePointer) : nullptr;
  return cache;
}

/// Whether each block is one run of bytes, in the same order on both sides.
bool blocks_are_runs(const CacheView& a, const CacheView& b) {
  const auto row = static_cast<std::int64_t>(a.row_bytes());
  const bool hnd = a.token_stride == row && a.head_stride == row * a.block_size;
  const bool nhd = a.head_stride == row && a.token_stride == row * a.num_heads;
  const bool same = a.token_stride == b.token_stride && a.head_stride == b.head_stride;
  return same && (hnd || nhd);
}

/// One side is memory that only the driver reaches: it copies run by run, neighbours in one.
void copy_by_driver(const CacheView& source, const CacheView& target,
                    std::span<const IndexPair> pairs, const Stream& stream, const char* where) {
  const auto row = static_cast<std::int64_t>(source.row_bytes());
  const auto copy = [&](std::byte* to, const std::byte* from, std::int64_t bytes) {
    expect_success(where, "cudaMemcpyAsync",
                   cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault,
                                   stream.handle));
  };
  if (blocks_are_runs(source, target)) {
    const std::int64_t bytes = row * source.num_heads * source.block_size;
    const bool packed = source.block_stride == bytes && target.block_stride == bytes;
    for (std::size_t i = 0; i < pairs.size();) {
      std::size_t end = i + 1;
      while (packed && end < pairs.size() && pairs[end].from == pairs[end - 1].from + 1 &&
             pairs[end].to == pairs[end - 1].to + 1) {
        ++end;
      }
      copy(target.row(pairs[i].to, 0, 0), source.row(pairs[i].from, 0, 0),
           bytes * static_cast<std::int64_t>(end - i));
      i = end;
    }
    return;
  }
  const bool pitched = source.token_stride >= row && target.token_stride >= row;
  for (const IndexPair& pair : pairs) {
    for (std::int64_t head = 0; head < source.num_heads; ++head) {
      if (pitched) {
        expect_success(
            where, "cudaMemcpy2DAsync",
            cudaMemcpy2DAsync(
                target.row(pair.to, head, 0), static_cast<std::size_t>(target.token_stride),
                source.row(pair.from, head, 0), static_cast<std::size_t>(source.token_stride),
                static_cast<std::size_t>(row), static_cast<std::size_t>(source.block_size),
                cudaMemcpyDefault, stream.handle));
        continue;
      }
      for (std::int64_t token = 0; token < source.block_size; ++token) {
        copy(target.row(pair.to, head, token), source.row(pair.from, head, token), row);
      }
    }
  }
}

}  // namespace

void swap_blocks(const CacheView& source, const CacheView& target, std::span<const IndexPair> pairs,
                 const Stream& stream, const char* where) {
  check_swap_blocks(where, source, target, pairs);
  if (pairs.empty()) return;
  const CurrentDevice current(where, stream.device);
  const CacheView from = reachable(where, source), to = reachable(where, target);
  if (from.data == nullptr || to.data == nullptr) {
    return copy_by_driver(source, target, pairs, stream, where);
  }
  const UnitCopy copy = unit_copy(from, to, Unit::block);
  const IndexPairs given{reinterpret_cast<const std::int64_t*>(pairs.data()),
                         static_cast<std::int64_t>(pairs.size()), false};
  put({&copy, 1}, given, Unit::block, !independent(pairs, false), 1, stream, where);
}

}  // namespace pagedkv::cuda
