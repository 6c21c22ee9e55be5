#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "cuda/error_word.hpp"
#include "cuda/operations.hpp"
#include "pagedkv/ops/checks.hpp"

namespace pagedkv::cuda {
namespace {

/// The words of all streams of the process.
class Words {
 public:
  ErrorWord* of(const Stream& stream, const char* where) {
    const std::lock_guard lock(mutex_);
    ErrorWord*& word = words_[{stream.device, stream.handle}];
    if (word == nullptr) word = make(stream, where);
    return word;
  }

 private:
  static ErrorWord* make(const Stream& stream, const char* where) {
    const CurrentDevice current(where, stream.device);
    // Also while some stream is captured: what is allocated here is no part of the graph.
    auto mode = cudaStreamCaptureModeRelaxed;
    expect_success(where, "cudaThreadExchangeStreamCaptureMode",
                   cudaThreadExchangeStreamCaptureMode(&mode));
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, sizeof(ErrorWord), cudaHostAllocMapped);
    static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode));
    expect_success(where, "cudaHostAlloc", error);
    return new (memory) ErrorWord{};
  }

  std::mutex mutex_;
  std::map<std::pair<int, cudaStream_t>, ErrorWord*> words_;
};

[[noreturn]] void throw_mistake(const char* where, const ErrorWord& word) {
  const auto index = [&](const char* what) {
    detail_checks::throw_index(where, what, word.value, word.index, word.lowest, word.end);
  };
  const auto range = std::to_string(word.lowest) + " to " + std::to_string(word.end - 1);
  switch (word.mistake) {
    case Mistake::slot: index("slot"); break;
    case Mistake::block: index("block"); break;
    case Mistake::position: index("position"); break;
    case Mistake::length:
      pagedkv::detail::throw_shape(where, "sequence " + std::to_string(word.index) + " of " +
                                              std::to_string(word.value) + " tokens; expected " +
                                              range + ", what its row of the block table holds");
    case Mistake::total:
      pagedkv::detail::throw_shape(where, "sequences of " + std::to_string(word.value) +
                                              " tokens in all; expected " + range +
                                              ", the rows that there are");
    case Mistake::query_start:
      pagedkv::detail::throw_shape(where, "query_start_loc " + std::to_string(word.value) + " at " +
                                              std::to_string(word.index) + "; expected " + range);
    case Mistake::none: break;
  }
  pagedkv::detail::throw_shape(where, "an error word that no kernel writes; expected a mistake");
}

Words& words() {
  static auto* const all = new Words;  // never given back: a kernel may still hold one
  return *all;
}

}  // namespace

ErrorWord* error_word(const Stream& stream, const char* where) { return words().of(stream, where); }

void check(const Stream& stream, const char* where) {
  ErrorWord* const word = error_word(stream, where);
  const CurrentDevice current(where, stream.device);
  expect_success(where, "cudaStreamSynchronize", cudaStreamSynchronize(stream.handle));
  const ErrorWord met = std::exchange(*word, ErrorWord{});
  if (met.mistake != Mistake::none) throw_mistake(where, met);
}

}  // namespace pagedkv::cuda
