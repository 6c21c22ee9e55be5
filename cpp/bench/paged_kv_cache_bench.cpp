// PagedKvCache against memcpy of the same bytes, in one call, between the same two pieces of
// memory; 128 MiB, so that neither side stays in a cache.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "in_turns.hpp"
#include "pagedkv/core/paged_kv_cache.hpp"

namespace pagedkv_bench {
namespace {

using pagedkv::BlockId;
using pagedkv::PagedKvCache;

constexpr std::size_t kValues = std::size_t{4096} * 4096;
enum class Order { kInOrder, kShuffled };

/// A cache with room for `kValues` values, and as many random ones to put into it.
struct Fixture {
  Fixture(std::size_t dim, Order order)
      : num_tokens(kValues / dim), cache(num_tokens, dim), source(random_values(kValues)) {
    cache.append_tensor(source);
    memory = const_cast<double*>(cache.as_span().value().data());
    cache.clear();
    if (order == Order::kShuffled) {
      std::vector<BlockId> ids(cache.num_blocks());
      std::iota(ids.begin(), ids.end(), BlockId{0});
      std::ranges::shuffle(ids, std::mt19937{std::random_device{}()});
      cache.permute_blocks(ids);
    }
    cache.append_tensor(source);
    require_source("PagedKvCache does not hold what was appended");
  }

  [[nodiscard]] std::span<const double> token(std::size_t i) const {
    return std::span(source).subspan(i * cache.dim(), cache.dim());
  }
  void require_source(const char* what) const {
    require(same_bytes(cache.as_tensor(), source), what);
  }

  std::size_t num_tokens;
  PagedKvCache cache;
  std::vector<double> source;
  double* memory = nullptr;  // the cache's own
};

void append_all(Fixture& f) {
  f.cache.clear();
  for (std::size_t i = 0; i < f.num_tokens; ++i) f.cache.append(f.token(i));
}

/// One token after the other, against one memcpy a token.
void append(benchmark::State& state) {
  Fixture f(4096, Order::kInOrder);
  in_turns(
      state, f.num_tokens,
      [&] {
        for (std::size_t i = 0; i < f.num_tokens; ++i) {
          const auto token = f.token(i);
          std::memcpy(f.memory + i * token.size(), token.data(), token.size_bytes());
        }
        benchmark::ClobberMemory();
      },
      [&] { append_all(f); });
  f.require_source("append lost values");
}

void memcpy_all(Fixture& f) {
  std::memcpy(f.memory, f.source.data(), kValues * sizeof(double));
  benchmark::ClobberMemory();
}

void append_against_one_call(benchmark::State& state) {
  Fixture f(4096, Order::kInOrder);
  in_turns(state, f.num_tokens, [&] { memcpy_all(f); }, [&] { append_all(f); });
  f.require_source("append lost values");
}

template <std::size_t dim, Order order>
void append_tensor(benchmark::State& state) {
  Fixture f(dim, order);
  in_turns(
      state, 1, [&] { memcpy_all(f); },
      [&] {
        f.cache.clear();
        f.cache.append_tensor(f.source);
      });
  f.require_source("append_tensor lost values");
}

template <std::size_t dim, Order order>
void as_tensor(benchmark::State& state) {
  Fixture f(dim, order);
  std::vector<double> out(kValues);
  in_turns(
      state, 1,
      [&] {
        std::memcpy(out.data(), f.memory, kValues * sizeof(double));
        benchmark::ClobberMemory();
      },
      [&] { f.cache.as_tensor(out); });
  require(same_bytes(out, f.source), "as_tensor gave other values");
}

/// 256 KiB, warm, to memory that lies 16 bytes further than the cache's own, modulo a page, as
/// arrays from malloc often do; against memcpy between the same two.
void as_tensor_after_16_bytes(benchmark::State& state) {
  constexpr std::size_t copies = 100;
  constexpr std::size_t page = 4096 / sizeof(double);
  PagedKvCache cache(256, 128);
  const auto source = random_values(256 * 128);
  cache.append_tensor(source);
  const double* memory = cache.as_span().value().data();
  std::vector<double> room(source.size() + 2 * page);
  const auto distance = reinterpret_cast<std::uintptr_t>(room.data()) / sizeof(double) -
                        reinterpret_cast<std::uintptr_t>(memory) / sizeof(double);
  const auto out = std::span(room).subspan((2 + page - distance % page) % page, source.size());
  cache.as_tensor(out);
  require(same_bytes(out, source), "as_tensor gave other values");
  in_turns(
      state, copies,
      [&] {
        for (std::size_t i = 0; i < copies; ++i) {
          std::memcpy(out.data(), memory, out.size_bytes());
          benchmark::ClobberMemory();
        }
      },
      [&] {
        for (std::size_t i = 0; i < copies; ++i) {
          cache.as_tensor(out);
          benchmark::ClobberMemory();
        }
      });
  require(same_bytes(out, source), "as_tensor gave other values");
}

/// A deep copy into fresh memory, against new memory and memcpy.
void clone(benchmark::State& state) {
  Fixture f(4096, Order::kInOrder);
  in_turns(
      state, 1,
      [&] {
        const std::vector<double> copy(f.memory, f.memory + kValues);
        benchmark::DoNotOptimize(copy.data());
      },
      [&] {
        const PagedKvCache copy(f.cache);
        benchmark::DoNotOptimize(copy.len());
      });
  require(same_bytes(PagedKvCache(f.cache).as_tensor(), f.source), "a copy holds other values");
}

/// All tokens without a copy, of a cache of 65,536 tokens against one of a single block.
void as_span(benchmark::State& state) {
  constexpr std::size_t views = 100'000;
  const Fixture f(256, Order::kInOrder);
  PagedKvCache small(16, 256);
  small.append_tensor(std::span(f.source).first(16 * 256));
  require(same_bytes(f.cache.as_span().value(), f.source), "as_span shows other values");
  const auto view_often = [](const PagedKvCache& cache) {
    for (std::size_t i = 0; i < views; ++i) {
      auto span = cache.as_span();
      benchmark::DoNotOptimize(span);
      benchmark::ClobberMemory();
    }
  };
  in_turns(state, views, [&] { view_often(small); }, [&] { view_often(f.cache); });
}

[[maybe_unused]] const bool registered = [] {
  turns("PagedKvCache.append", append);
  turns("PagedKvCache.append/one call", append_against_one_call);
  turns("PagedKvCache.append_tensor", append_tensor<4096, Order::kInOrder>);
  turns("PagedKvCache.append_tensor/shuffled", append_tensor<4096, Order::kShuffled>);
  turns("PagedKvCache.as_tensor", as_tensor<4096, Order::kInOrder>);
  turns("PagedKvCache.as_tensor/shuffled", as_tensor<4096, Order::kShuffled>);
  turns("PagedKvCache.as_tensor/shuffled, dim 128", as_tensor<128, Order::kShuffled>);
  turns("PagedKvCache.as_tensor/shuffled, dim 16", as_tensor<16, Order::kShuffled>);
  turns("PagedKvCache.as_tensor/256 KiB, 16 bytes further", as_tensor_after_16_bytes);
  turns("PagedKvCache.as_span", as_span);
  turns("PagedKvCache copied", clone);
  return true;
}();

}  // namespace
}  // namespace pagedkv_bench
