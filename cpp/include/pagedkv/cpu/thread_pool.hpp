#pragma once

// The threads that operations run on. Not OpenMP: two run-times of it in one process, ours and
// torch's, fight for the cores.

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "pagedkv/core/errors.hpp"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace pagedkv::inline v0_1::cpu {

/// What operations need of an executor: `size()` workers, and `run(count, task, workers)`, which
/// calls `task(index, worker)` for each index below `count`, once, with `worker < workers`
/// different for calls at the same time, and returns when all have returned. Tasks do not throw.
template <class E>
concept Executor = requires(E& executor, void (*task)(std::int64_t, unsigned)) {
  { executor.size() } -> std::convertible_to<unsigned>;
  executor.run(std::int64_t{1}, task, 1U);
};

/// Does everything in the thread that calls.
struct SerialExecutor {
  [[nodiscard]] static constexpr unsigned size() noexcept { return 1; }
  template <class Task>
  void run(std::int64_t count, Task&& task, unsigned = 1) const {
    for (std::int64_t i = 0; i < count; ++i) task(i, 0U);
  }
};

namespace detail_thread_pool {

/// Asks for short turns of the thread that calls, its share of the processor as before. From Linux
/// 6.12 on such a thread, when it wakes, has the processor at once, and not after the turn of the
/// thread that is there: OpenMP's spin for milliseconds after each region. Nothing elsewhere.
inline void take_short_turns() noexcept {
#if defined(__linux__) && defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
  struct {
    std::uint32_t size, policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtime, deadline, period;
  } attributes{};
  constexpr std::uint64_t nanoseconds = 300'000;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0U) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;
  attributes.runtime = nanoseconds;
  static_cast<void>(::syscall(SYS_sched_setattr, 0, &attributes, 0U));
#endif
}

}  // namespace detail_thread_pool

/// Threads that sleep while there is nothing to do; the one that calls `run` works with them. Made
/// at the first `run` that has work for them, and anew in a child after fork(). `run` from several
/// threads at once is safe: one of them has the workers, the others do their work alone.
class ThreadPool {
 public:
  /// @param size  workers, the calling thread counted: at least 1.
  explicit ThreadPool(unsigned size) : size_(size == 0 ? 1 : size) {}
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    if (State* const now = state(); now != nullptr) stop(*now);
  }

  [[nodiscard]] unsigned size() const noexcept { return size_.load(std::memory_order_relaxed); }

  /// Waits for a `run` in another thread. @throws ShapeError when `size` is 0.
  void resize(unsigned size) {
    if (size == 0) detail::throw_zero("cpu.ThreadPool.resize", "size");
    State* const now = state();
    if (now == nullptr)
      detail::throw_unsupported(
          "cpu.ThreadPool.resize",
          "called while the pool is made anew after fork(); expected one thread");
    const std::lock_guard lock(now->busy);
    stop(*now);
    size_.store(size, std::memory_order_relaxed);
  }

  /// `task(index, worker)` for each index below `count`.
  /// @param workers  at most so many: what the caller has room for, also when the pool is resized.
  template <class Task>
  void run(std::int64_t count, Task&& task, unsigned workers = kAll) {
    State* const now = count > 1 && workers > 1 && size() > 1 ? state() : nullptr;
    if (now == nullptr || !now->busy.try_lock()) {
      for (std::int64_t i = 0; i < count; ++i) task(i, 0U);
      return;
    }
    const std::lock_guard lock(now->busy, std::adopt_lock);
    using Callable = std::remove_reference_t<Task>;
    now->context = const_cast<void*>(static_cast<const void*>(std::addressof(task)));
    now->call = [](void* context, std::int64_t index, unsigned worker) {
      (*static_cast<Callable*>(context))(index, worker);
    };
    now->count = count;
    now->limit = workers;
    now->next.store(0, std::memory_order_relaxed);
    start(*now);
    now->job.store(kOpen, std::memory_order_release);
    const std::size_t helpers = std::min({static_cast<std::size_t>(count - 1), now->workers.size(),
                                          static_cast<std::size_t>(workers - 1)});
    for (std::size_t i = 0; i < helpers; ++i) {
      now->workers[i]->wake.fetch_add(1, std::memory_order_release);
      now->workers[i]->wake.notify_one();
    }
    work(*now, 0);
    // Who is still asleep need not come; who is at work is waited for.
    std::uint32_t left = now->job.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    while (left != 0) {
      now->job.wait(left, std::memory_order_acquire);
      left = now->job.load(std::memory_order_acquire);
    }
  }

 private:
  static constexpr unsigned kAll = ~0U;
  static constexpr std::uint32_t kOpen = 1U << 31;

  struct alignas(64) Worker {
    std::atomic<std::uint32_t> wake{0};
    std::thread thread;
  };
  struct State {
    alignas(64) std::atomic<std::int64_t> next{0};
    alignas(64) std::atomic<std::uint32_t> job{0};  // kOpen, and how many workers are at it
    std::mutex busy;                                // who runs a job, or changes the workers
    std::vector<std::unique_ptr<Worker>> workers;
    std::atomic<bool> stopping{false};
    void* context = nullptr;
    void (*call)(void*, std::int64_t, unsigned) = nullptr;
    std::int64_t count = 0;
    unsigned limit = kAll;
  };

  static void work(State& state, unsigned worker) {
    const std::int64_t count = state.count;
    for (std::int64_t i = state.next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = state.next.fetch_add(1, std::memory_order_relaxed)) {
      state.call(state.context, i, worker);
    }
  }

  static void serve(State& state, Worker& self, unsigned worker) {
    detail_thread_pool::take_short_turns();
    std::uint32_t seen = 0;
    for (;;) {
      self.wake.wait(seen, std::memory_order_acquire);
      seen = self.wake.load(std::memory_order_acquire);
      if (state.stopping.load(std::memory_order_relaxed)) return;
      std::uint32_t job = state.job.load(std::memory_order_acquire);
      while ((job & kOpen) != 0 &&
             !state.job.compare_exchange_weak(job, job + 1, std::memory_order_acq_rel)) {
      }
      if ((job & kOpen) == 0) continue;
      if (worker < state.limit) work(state, worker);
      if (state.job.fetch_sub(1, std::memory_order_acq_rel) == 1) state.job.notify_one();
    }
  }

  /// This process's state: a child of fork() has none of its parent's threads, and begins anew.
  /// Null while another thread of the child makes it.
  [[nodiscard]] State* state() {
#if !defined(_WIN32)
    const auto process = ::getpid();
    auto owner = process_.load(std::memory_order_acquire);
    if (owner != process) [[unlikely]] {
      auto made = std::make_unique<State>();
      if (owner == 0 || !process_.compare_exchange_strong(owner, 0)) return nullptr;
      // The parent's is left as it is: its lock may be held by a thread that is not here.
      static_cast<void>(state_.release());
      state_ = std::move(made);
      process_.store(process, std::memory_order_release);
    }
#endif
    return state_.get();
  }

  /// Makes the workers that are missing; fewer where the system has no more threads to give.
  void start(State& state) {
    while (state.workers.size() + 1 < size()) {
      Worker& worker = *state.workers.emplace_back(std::make_unique<Worker>());
      const auto number = static_cast<unsigned>(state.workers.size());
      try {
        worker.thread = std::thread([&state, &worker, number] { serve(state, worker, number); });
      } catch (const std::exception&) {
        state.workers.pop_back();
        return;
      }
    }
  }

  /// The caller has the lock, or nobody else knows the pool.
  static void stop(State& state) {
    state.stopping.store(true, std::memory_order_relaxed);
    for (auto& worker : state.workers) {
      worker->wake.fetch_add(1, std::memory_order_release);
      worker->wake.notify_one();
      worker->thread.join();
    }
    state.workers.clear();
    state.stopping.store(false, std::memory_order_relaxed);
  }

#if !defined(_WIN32)
  std::atomic<pid_t> process_{::getpid()};  ///< whose threads they are; 0 while they are replaced
#endif
  std::atomic<unsigned> size_;
  std::unique_ptr<State> state_ = std::make_unique<State>();
};

/// Processors that this process may run on.
[[nodiscard]] inline unsigned num_processors() noexcept {
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    return static_cast<unsigned>(CPU_COUNT(&allowed));
  }
#endif
  const unsigned all = std::thread::hardware_concurrency();
  return all == 0 ? 1 : all;
}

/// How many threads operations use unless told: `PAGEDKV_NUM_THREADS`, else one a processor.
/// @throws UnsupportedError when that variable is not a number of at least 1.
[[nodiscard]] inline unsigned default_num_threads() {
  const char* text = std::getenv("PAGEDKV_NUM_THREADS");
  if (text == nullptr || *text == '\0') return num_processors();
  unsigned long value = 0;
  for (const char* c = text; *c != '\0'; ++c) {
    value =
        *c >= '0' && *c <= '9' && value <= 1024 ? value * 10 + static_cast<unsigned>(*c - '0') : 0;
    if (value == 0) break;
  }
  if (value == 0 || value > 1024) {
    detail::throw_unsupported(
        "cpu.default_num_threads",
        "PAGEDKV_NUM_THREADS=" + std::string(text) + "; expected a number from 1 to 1024");
  }
  return static_cast<unsigned>(value);
}

/// The pool of operations that are given none. Never destroyed: its threads may outlive `main`.
[[nodiscard]] inline ThreadPool& default_thread_pool() {
  static ThreadPool& pool = *new ThreadPool(default_num_threads());
  return pool;
}

}  // namespace pagedkv::inline v0_1::cpu
