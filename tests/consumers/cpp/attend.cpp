// Writes keys and values and attends over them, with the library's kernels or with those of the
// flags that this is compiled with, and compares with the sums written out.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <vector>

#include "pagedkv/pagedkv.hpp"
#if defined(HEADERS_ALONE)
#include "pagedkv/cpu/kernels/native.hpp"
#endif

namespace cpu = pagedkv::cpu;

constexpr std::int64_t kTokens = 37, kBlocks = 8, kBlockSize = 16, kHeads = 2, kQueryHeads = 4,
                       kHeadDim = 64;
constexpr std::size_t kQuerySize = kQueryHeads * kHeadDim;

const cpu::Kernels& kernels() {
#if defined(HEADERS_ALONE)
  return cpu::native_kernels();
#else
  return cpu::kernels();
#endif
}

float value(std::size_t i) { return std::sin(0.37f * static_cast<float>(i)); }

std::vector<float> values(std::size_t count, std::size_t first) {
  std::vector<float> made(count);
  for (std::size_t i = 0; i < count; ++i) made[i] = value(first + i);
  return made;
}

/// Greatest difference between `out` and attention of q over k and v, in float64.
double error(const std::vector<float>& out, const std::vector<float>& q,
             const std::vector<float>& k, const std::vector<float>& v) {
  const auto at = [](std::int64_t token, std::int64_t head, std::int64_t i) {
    return static_cast<std::size_t>((token * kHeads + head) * kHeadDim + i);
  };
  double largest = 0;
  for (std::int64_t head = 0; head < kQueryHeads; ++head) {
    const std::int64_t kv_head = head * kHeads / kQueryHeads;
    const float* const query = q.data() + head * kHeadDim;
    std::vector<double> weights, sums(kHeadDim);
    for (std::int64_t token = 0; token < kTokens; ++token) {
      double product = 0;
      for (std::int64_t i = 0; i < kHeadDim; ++i) {
        product += static_cast<double>(query[i]) * k[at(token, kv_head, i)];
      }
      weights.push_back(std::exp(product / std::sqrt(static_cast<double>(kHeadDim))));
      for (std::int64_t i = 0; i < kHeadDim; ++i) {
        sums[static_cast<std::size_t>(i)] += weights.back() * v[at(token, kv_head, i)];
      }
    }
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::int64_t i = 0; i < kHeadDim; ++i) {
      const double expected = sums[static_cast<std::size_t>(i)] / total;
      const double got = out[static_cast<std::size_t>(head * kHeadDim + i)];
      largest = std::fmax(largest, std::abs(got - expected));
    }
  }
  return largest;
}

int main() {
  cpu::ThreadPool pool(2);
  auto k = values(kTokens * kHeads * kHeadDim, 1), v = values(k.size(), 100'000);
  auto q = values(kQuerySize, 200'000);
  std::vector<float> k_pages(kBlocks * kHeads * kBlockSize * kHeadDim, NAN), v_pages = k_pages;
  const auto cache = [](std::vector<float>& pages) {
    return pagedkv::cache_view(pages.data(), pagedkv::DType::float32, kBlocks, kHeads, kBlockSize,
                               kHeadDim);
  };
  const auto rows = [](std::vector<float>& data, std::int64_t tokens, std::int64_t heads) {
    return pagedkv::rows_view(data.data(), pagedkv::DType::float32, tokens, heads, kHeadDim);
  };

  const std::vector<std::int32_t> table{6, 0, 3};
  std::vector<std::int64_t> slots;
  for (std::int64_t token = 0; token < kTokens; ++token) {
    slots.push_back(table[static_cast<std::size_t>(token / kBlockSize)] * kBlockSize +
                    token % kBlockSize);
  }
  pagedkv::WriteKvCall write;
  write.k = rows(k, kTokens, kHeads);
  write.v = rows(v, kTokens, kHeads);
  write.k_cache = cache(k_pages);
  write.v_cache = cache(v_pages);
  write.slot_mapping = slots.data();
  cpu::write_kv(write, pool, kernels());

  std::vector<float> out(kQuerySize);
  const auto length = static_cast<std::int32_t>(kTokens);
  pagedkv::AttentionCall call;
  call.q = rows(q, 1, kQueryHeads);
  call.out = rows(out, 1, kQueryHeads);
  call.k_cache = write.k_cache;
  call.v_cache = write.v_cache;
  call.block_tables = table.data();
  call.block_table_stride = call.max_blocks = static_cast<std::int64_t>(table.size());
  call.seq_lens = &length;
  call.num_seqs = 1;
  call.scale = 1 / std::sqrt(static_cast<double>(kHeadDim));
  cpu::paged_attention(call, pool, kernels());

  const double off = error(out, q, k, v);
  if (!(off < 1e-5)) {
    std::printf("off by %g\n", off);
    return 1;
  }
  const auto isa = cpu::isa_name(kernels().isa);
  std::printf("attended with %.*s\n", static_cast<int>(isa.size()), isa.data());
}
