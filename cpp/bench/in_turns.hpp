#pragma once

// A time means little on a shared machine; a ratio of two that were taken in turns means something.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <ctime>
#else
#include <chrono>
#endif

namespace pagedkv_bench {

/// Turns of each benchmark; the medians are of so many.
inline constexpr int kTurns = 15;

/// Processor time of this thread in nanoseconds, where it can be told: what other processes take is
/// then not counted.
inline double now() {
#if defined(__unix__) || defined(__APPLE__)
  std::timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
#else
  return std::chrono::duration<double, std::nano>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
#endif
}

template <class Work>
double time_of(Work& work) {
  const double start = now();
  work();
  return now() - start;
}

inline double median(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::ranges::nth_element(times, middle);
  return *middle;
}

/// Runs `floor` and `ours` in turns, each of which does `operations` operations, and reports the
/// median nanoseconds of one: counters `ns` and `floor_ns`, and `floor/ours`, which is the share of
/// the floor's speed that is reached. `restore` puts things back after each turn; it is not timed.
template <class Floor, class Ours, class Restore>
void in_turns(benchmark::State& state, std::size_t operations, Floor floor, Ours ours,
              Restore restore) {
  floor();  // both warm, the pages of both faulted in
  ours();
  restore();
  std::vector<double> floor_times;
  std::vector<double> our_times;
  for (auto _ : state) {
    floor_times.push_back(time_of(floor));
    our_times.push_back(time_of(ours));
    state.SetIterationTime(our_times.back() * 1e-9);
    restore();
  }
  const auto count = static_cast<double>(operations);
  const double floor_ns = median(std::move(floor_times)) / count;
  const double ns = median(std::move(our_times)) / count;
  state.counters["ns"] = ns;
  state.counters["floor_ns"] = floor_ns;
  state.counters["floor/ours"] = floor_ns / ns;
}
template <class Floor, class Ours>
void in_turns(benchmark::State& state, std::size_t operations, Floor floor, Ours ours) {
  in_turns(state, operations, floor, ours, [] {});
}

/// Registers a benchmark whose body is one call of `in_turns`.
inline void turns(const char* name, void (*body)(benchmark::State& state)) {
  benchmark::RegisterBenchmark(name, body)
      ->Iterations(kTurns)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

/// Ends the program when a result is wrong: the time of a wrong result is no time.
inline void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

inline bool same_bytes(std::span<const double> a, std::span<const double> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// Random bits, fresh in every run: NaNs, infinities and subnormals are among them.
inline std::vector<double> random_values(std::size_t count) {
  std::mt19937_64 random{std::random_device{}()};
  std::vector<double> values(count);
  for (double& value : values) {
    const std::uint64_t bits = random();
    std::memcpy(&value, &bits, sizeof value);
  }
  return values;
}

}  // namespace pagedkv_bench
