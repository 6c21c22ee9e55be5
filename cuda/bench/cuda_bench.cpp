// Operations on a CUDA device beside its copy bandwidth: decode at many batches and contexts, and
// what moves keys and values. Each figure is the median of replays of a graph of many calls, whose
// inputs are rotated past the L2.
//
//   pagedkv_cuda_bench [decode|copies|point]...
//
// `point` is one decode alone, for profilers.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/operations.hpp"

namespace {

using namespace pagedkv;

constexpr const char* kWhere = "cuda_bench";
constexpr std::int64_t kQueryHeads = 32, kHeads = 8, kDim = 128, kBlockSize = 16;
constexpr std::int64_t kRotated = std::int64_t{512} << 20;  // bytes: several times any L2

void expect(cudaError_t error, const char* call) { cuda::expect_success(kWhere, call, error); }

/// Memory of the device.
template <class T>
class Array {
 public:
  explicit Array(std::int64_t count) : count_(static_cast<std::size_t>(count)) {
    expect(cudaMalloc(reinterpret_cast<void**>(&data_), count_ * sizeof(T)), "cudaMalloc");
  }
  explicit Array(const std::vector<T>& values) : Array(static_cast<std::int64_t>(values.size())) {
    expect(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
           "cudaMemcpy");
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { static_cast<void>(cudaFree(data_)); }

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> copy(count_);
    expect(cudaMemcpy(copy.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
           "cudaMemcpy");
    return copy;
  }
  /// Fills it with `pattern`, again and again.
  void repeat(const std::vector<T>& pattern) {
    std::size_t done = std::min(pattern.size(), count_);
    expect(cudaMemcpy(data_, pattern.data(), done * sizeof(T), cudaMemcpyHostToDevice),
           "cudaMemcpy");
    for (std::size_t next = 0; done < count_; done += next) {
      next = std::min(done, count_ - done);
      expect(cudaMemcpy(data_ + done, data_, next * sizeof(T), cudaMemcpyDeviceToDevice),
             "cudaMemcpy");
    }
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

class Timer {
 public:
  Timer() {
    expect(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "cudaStreamCreate");
    for (cudaEvent_t& event : events_) expect(cudaEventCreate(&event), "cudaEventCreate");
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    for (const cudaEvent_t event : events_) static_cast<void>(cudaEventDestroy(event));
    static_cast<void>(cudaStreamDestroy(stream_.handle));
  }
  [[nodiscard]] const cuda::Stream& stream() const noexcept { return stream_; }

  /// Median seconds of one of `calls` calls `work(i)`, which are captured and replayed together.
  template <class Work>
  double seconds(int calls, Work&& work) {
    for (int i = 0; i < calls; ++i) work(i);  // what grows does so before the capture
    cuda::check(stream_, kWhere);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    expect(cudaStreamBeginCapture(stream_.handle, cudaStreamCaptureModeThreadLocal),
           "cudaStreamBeginCapture");
    for (int i = 0; i < calls; ++i) work(i);
    expect(cudaStreamEndCapture(stream_.handle, &graph), "cudaStreamEndCapture");
    expect(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    std::vector<double> times;
    for (int i = 0; i < 25; ++i) {
      expect(cudaEventRecord(events_[0], stream_.handle), "cudaEventRecord");
      expect(cudaGraphLaunch(replay, stream_.handle), "cudaGraphLaunch");
      expect(cudaEventRecord(events_[1], stream_.handle), "cudaEventRecord");
      expect(cudaEventSynchronize(events_[1]), "cudaEventSynchronize");
      float milliseconds = 0;
      expect(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]), "cudaEventElapsedTime");
      if (i >= 5) times.push_back(static_cast<double>(milliseconds) / 1e3 / calls);
    }
    expect(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
    expect(cudaGraphDestroy(graph), "cudaGraphDestroy");
    std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
    return times[times.size() / 2];
  }

 private:
  cuda::Stream stream_;
  cudaEvent_t events_[2]{};
};

/// Bytes a second that a copy within the device reads and writes.
double copy_bandwidth(Timer& timer) {
  constexpr std::int64_t bytes = std::int64_t{1} << 30;
  const Array<std::byte> from(bytes), to(bytes);
  const double seconds = timer.seconds(4, [&](int) {
    expect(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(bytes),
                           cudaMemcpyDeviceToDevice, timer.stream().handle),
           "cudaMemcpyAsync");
  });
  return 2.0 * static_cast<double>(bytes) / seconds;
}

/// Elements of about unit size, of `dtype`.
std::vector<std::uint8_t> random_elements(DType dtype, std::mt19937_64& random) {
  std::vector<std::uint8_t> bytes(std::size_t{1} << 24);
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    const std::uint64_t bits = random();
    const auto sign = static_cast<std::uint8_t>(bits & 0x80);
    bytes[i] = static_cast<std::uint8_t>(bits >> 8);
    bytes[i + 1] = static_cast<std::uint8_t>(sign | 0x3f);  // 0.5 to 2 in bfloat16
    if (dtype == DType::float8_e4m3) {
      bytes[i] = static_cast<std::uint8_t>((bits >> 16 & 0x87) | 0x30);
      bytes[i + 1] = static_cast<std::uint8_t>(sign | 0x30 | (bits >> 24 & 7));
    }
  }
  return bytes;
}

void row(const std::string& what, double seconds, double bytes, double bandwidth) {
  std::printf("| %s | %.1f | %.2f | %.0f %% |\n", what.c_str(), seconds * 1e6,
              bytes / seconds / 1e12, 100 * bytes / seconds / bandwidth);
  std::fflush(stdout);
}

/// One query token a sequence over a cache of `dtype`.
void decode(Timer& timer, DType dtype, std::int64_t batch, std::int64_t context, double bandwidth) {
  std::mt19937_64 random(1);
  const std::int64_t element = dtype_bits(dtype) / 8;
  const std::int64_t max_blocks = (context + kBlockSize - 1) / kBlockSize;
  const std::int64_t call_bytes = 2 * batch * context * kHeads * kDim * element;
  const int calls = static_cast<int>(std::clamp<std::int64_t>(kRotated / call_bytes, 2, 64));
  const std::int64_t num_blocks =
      batch * max_blocks *
      std::clamp<std::int64_t>(kRotated / call_bytes + 1, 1, calls);  // rotations share no block
  const std::int64_t bytes = num_blocks * kHeads * kBlockSize * kDim * element;
  Array<std::uint8_t> k(bytes), v(bytes);
  k.repeat(random_elements(dtype, random));
  // Values that are all 1: so is each result.
  std::vector<std::uint8_t> ones(std::size_t{1} << 24);
  for (std::size_t i = 0; i < ones.size(); i += 2) {
    ones[i] = dtype == DType::bfloat16 ? 0x80 : 0x38;
    ones[i + 1] = dtype == DType::bfloat16 ? 0x3f : 0x38;
  }
  v.repeat(ones);
  Array<std::uint8_t> q(batch * kQueryHeads * kDim * 2), out(batch * kQueryHeads * kDim * 2);
  q.repeat(random_elements(DType::bfloat16, random));
  std::vector<std::int32_t> blocks(static_cast<std::size_t>(num_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::ranges::shuffle(blocks, random);
  const Array<std::int32_t> tables(blocks);
  const Array<std::int32_t> lengths(std::vector<std::int32_t>(static_cast<std::size_t>(batch),
                                                              static_cast<std::int32_t>(context)));

  AttentionCall call;
  call.q = rows_view(q.data(), DType::bfloat16, batch, kQueryHeads, kDim);
  call.out = rows_view(out.data(), DType::bfloat16, batch, kQueryHeads, kDim);
  call.k_cache = cache_view(k.data(), dtype, num_blocks, kHeads, kBlockSize, kDim, Layout::nhd);
  call.v_cache = cache_view(v.data(), dtype, num_blocks, kHeads, kBlockSize, kDim, Layout::nhd);
  call.block_table_stride = call.max_blocks = max_blocks;
  call.seq_lens = lengths.data();
  call.num_seqs = batch;
  call.scale = 1 / std::sqrt(static_cast<double>(kDim));
  const std::int64_t rotations = num_blocks / (batch * max_blocks);
  const double seconds = timer.seconds(calls, [&](int i) {
    call.block_tables = tables.data() + i % rotations * batch * max_blocks;
    cuda::attend(call, false, timer.stream(), kWhere);
  });
  for (const std::uint8_t byte : out.values()) {
    // 1.0 in bfloat16, or its neighbours
    if (byte != 0x80 && byte != 0x3f && byte != 0x7f && byte != 0x81) {
      throw std::runtime_error("decode of values that are 1 is not 1");
    }
  }
  row("decode " + std::string(dtype_name(dtype)) + ", " + std::to_string(batch) + " x " +
          std::to_string(context),
      seconds, static_cast<double>(call_bytes), bandwidth);
}

/// write_kv, gather_kv and copy_blocks of `tokens` tokens in shuffled blocks.
void copies(Timer& timer, std::int64_t tokens, double bandwidth) {
  std::mt19937_64 random(2);
  const std::int64_t token_bytes = kHeads * kDim * 2, call_bytes = 4 * tokens * token_bytes;
  const std::int64_t rotations = std::clamp<std::int64_t>(kRotated / call_bytes, 2, 64);
  const std::int64_t num_blocks = rotations * tokens / kBlockSize;
  Array<std::uint8_t> k_pool(num_blocks * kBlockSize * token_bytes);
  Array<std::uint8_t> v_pool(num_blocks * kBlockSize * token_bytes);
  Array<std::uint8_t> k(rotations * tokens * token_bytes), v(rotations * tokens * token_bytes);
  k.repeat(random_elements(DType::bfloat16, random));
  v.repeat(random_elements(DType::bfloat16, random));
  std::vector<std::int32_t> blocks(static_cast<std::size_t>(num_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::ranges::shuffle(blocks, random);
  std::vector<std::int64_t> slots;
  for (const std::int32_t block : blocks) {
    for (std::int64_t i = 0; i < kBlockSize; ++i) slots.push_back(block * kBlockSize + i);
  }
  const Array<std::int32_t> tables(blocks), lengths(std::vector{static_cast<std::int32_t>(tokens)});
  const Array<std::int64_t> slot_mapping(slots);
  const auto cache = [&](const Array<std::uint8_t>& pool) {
    return cache_view(pool.data(), DType::bfloat16, num_blocks, kHeads, kBlockSize, kDim);
  };
  const auto rows = [&](const Array<std::uint8_t>& all, std::int64_t i) {
    return rows_view(all.data() + i * tokens * token_bytes, DType::bfloat16, tokens, kHeads, kDim);
  };
  const auto named = [&](const char* what) {
    return std::string(what) + ", " + std::to_string(tokens) + " tokens";
  };
  const auto moved = static_cast<double>(call_bytes);

  const double write = timer.seconds(static_cast<int>(rotations), [&](int i) {
    cuda::write_kv({rows(k, i),
                    rows(v, i),
                    cache(k_pool),
                    cache(v_pool),
                    {},
                    {},
                    slot_mapping.data() + i * tokens},
                   timer.stream(), kWhere);
  });
  row(named("write_kv"), write, moved, bandwidth);

  Array<std::uint8_t> k_back(rotations * tokens * token_bytes);
  Array<std::uint8_t> v_back(rotations * tokens * token_bytes);
  GatherKvCall gather;
  gather.k_cache = cache(k_pool);
  gather.v_cache = cache(v_pool);
  gather.block_table_stride = gather.max_blocks = tokens / kBlockSize;
  gather.seq_lens = lengths.data();
  gather.num_seqs = 1;
  const double read = timer.seconds(static_cast<int>(rotations), [&](int i) {
    gather.block_tables = tables.data() + i * gather.max_blocks;
    gather.k = rows(k_back, i);
    gather.v = rows(v_back, i);
    cuda::gather_kv(gather, timer.stream(), kWhere);
  });
  if (k.values() != k_back.values() || v.values() != v_back.values()) {
    throw std::runtime_error("what was written is not what was gathered");
  }
  row(named("gather_kv"), read, moved, bandwidth);

  std::vector<std::int64_t> pairs;  // the first half of the pool over the second
  for (std::int64_t i = 0; i < tokens / kBlockSize; ++i) {
    pairs.push_back(blocks[static_cast<std::size_t>(i)]);
    pairs.push_back(blocks[static_cast<std::size_t>(num_blocks - 1 - i)]);
  }
  const CacheView pools[] = {cache(k_pool), cache(v_pool)};
  const double copy = timer.seconds(2, [&](int) {
    cuda::copy_blocks(pools, {pairs.data(), tokens / kBlockSize, false}, timer.stream(), kWhere);
  });
  row(named("copy_blocks"), copy, moved, bandwidth);
}

bool asked_for(int argc, char** argv, const char* what) {
  const auto named = [&](const char* argument) { return std::strcmp(argument, what) == 0; };
  return argc < 2 || std::any_of(argv + 1, argv + argc, named);
}

int run(int argc, char** argv) {
  cudaDeviceProp device{};
  expect(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  Timer timer;
  const double bandwidth = copy_bandwidth(timer);
  std::printf("%s: a copy moves %.2f TB/s\n\n", device.name, bandwidth / 1e12);
  std::printf("| what | us | TB/s | of a copy |\n| --- | ---: | ---: | ---: |\n");
  if (asked_for(argc, argv, "decode")) {
    for (const DType dtype : {DType::bfloat16, DType::float8_e4m3}) {
      for (const std::int64_t batch : {1, 8, 32, 128}) {
        for (const std::int64_t context : {512, 4096, 32768, 131072}) {
          if (batch * context > 4194304) continue;
          decode(timer, dtype, batch, context, bandwidth);
        }
      }
    }
  }
  if (argc > 1 && asked_for(argc, argv, "point")) {
    decode(timer, DType::bfloat16, 32, 4096, bandwidth);
  }
  if (asked_for(argc, argv, "copies")) {
    for (const std::int64_t tokens : {128, 4096, 32768}) copies(timer, tokens, bandwidth);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
