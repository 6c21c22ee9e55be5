// The pool of threads: every task is done once, whoever calls, and whatever becomes of the pool
// meanwhile. Runs under the thread sanitizer.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../expect_error.hpp"
#include "pagedkv/cpu/thread_pool.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using pagedkv_test::expect_error;

/// How often `executor` does each of `count` tasks, and one number more that stays 0.
template <Executor E>
std::vector<int> times_done(E& executor, std::int64_t count) {
  std::vector<std::atomic<int>> done(static_cast<std::size_t>(count) + 1);
  executor.run(count, [&](std::int64_t i, unsigned) {
    done[static_cast<std::size_t>(i)].fetch_add(1, std::memory_order_relaxed);
  });
  return {done.begin(), done.end()};
}

std::vector<int> once_each(std::int64_t count) {
  std::vector<int> once(static_cast<std::size_t>(count), 1);
  once.push_back(0);
  return once;
}

/// A task that notes who does it.
class Attendance {
 public:
  void operator()(std::int64_t, unsigned worker) {
    const std::lock_guard lock(mutex_);
    workers_.insert(worker);
    threads_.insert(std::this_thread::get_id());
  }
  [[nodiscard]] const std::set<unsigned>& workers() const { return workers_; }
  [[nodiscard]] std::size_t num_threads() const { return threads_.size(); }

 private:
  std::mutex mutex_;
  std::set<unsigned> workers_;
  std::set<std::thread::id> threads_;
};

TEST(ThreadPool, DoesEachTaskOnceWhateverTheirNumber) {
  for (const unsigned size : {1U, 2U, 3U, 8U}) {
    ThreadPool pool(size);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 8, 9, 1000}) {
      EXPECT_EQ(times_done(pool, count), once_each(count)) << size << " threads";
    }
  }
}

TEST(ThreadPool, OfNoThreadsHasTheCaller) {
  ThreadPool pool(0);
  EXPECT_EQ(pool.size(), 1U);
  EXPECT_EQ(times_done(pool, 5), once_each(5));
}

TEST(SerialExecutor, DoesEachTaskOnceInTheCallingThread) {
  const SerialExecutor executor;
  EXPECT_EQ(times_done(executor, 5), once_each(5));
  Attendance seen;
  executor.run(20, seen);
  EXPECT_EQ(seen.workers(), std::set<unsigned>{0});
}

TEST(ThreadPool, GivesWorkersThatAreAtWorkTogetherDifferentNumbers) {
  ThreadPool pool(4);
  std::atomic<bool> taken[4] = {};
  std::atomic<int> mistakes = 0;
  for (int round = 0; round < 50; ++round) {
    pool.run(64, [&](std::int64_t, unsigned worker) {
      if (worker >= 4 || taken[worker].exchange(true)) ++mistakes;
      std::this_thread::yield();
      taken[worker] = false;
    });
  }
  EXPECT_EQ(mistakes, 0);
}

TEST(ThreadPool, HasNoMoreWorkersThanTheCallerHasRoomFor) {
  ThreadPool pool(4);
  for (const unsigned room : {1U, 2U, 3U}) {
    Attendance seen;
    for (int round = 0; round < 20; ++round) pool.run(32, seen, room);
    EXPECT_LT(*seen.workers().rbegin(), room);
  }
}

TEST(ThreadPool, ComputesInTheCallingThreadAloneWhereItIsOfOne) {
  ThreadPool pool(1);
  Attendance seen;
  pool.run(20, seen);
  EXPECT_EQ(seen.num_threads(), 1U);
  EXPECT_EQ(seen.workers(), std::set<unsigned>{0});
}

TEST(ThreadPool, WaitsForTheTasksOfOthers) {
  ThreadPool pool(2);
  // The calling thread takes one task and cannot end before the worker has begun the other.
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> begun = 0, ended = 0;
    pool.run(2, [&](std::int64_t, unsigned) {
      begun.fetch_add(1);
      while (begun.load() < 2) std::this_thread::yield();
      ended.fetch_add(1);
    });
    EXPECT_EQ(ended, 2);
  }
}

TEST(ThreadPool, ShowsTheCallerWhatItsTasksWrote) {
  ThreadPool pool(3);
  std::vector<std::int64_t> values(5000);
  for (std::int64_t round = 1; round <= 20; ++round) {
    pool.run(static_cast<std::int64_t>(values.size()),
             [&](std::int64_t i, unsigned) { values[static_cast<std::size_t>(i)] += i * round; });
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], static_cast<std::int64_t>(i) * round * (round + 1) / 2);
    }
  }
}

TEST(ThreadPool, TasksMayRunTasks) {
  ThreadPool pool(3);
  std::atomic<int> done = 0;
  pool.run(20, [&](std::int64_t, unsigned) {
    pool.run(10, [&](std::int64_t, unsigned worker) {
      EXPECT_EQ(worker, 0U);  // alone: the workers are at the outer tasks
      done.fetch_add(1);
    });
  });
  EXPECT_EQ(done, 200);
}

TEST(ThreadPool, ServesSeveralThreadsAtOnce) {
  ThreadPool pool(3);
  std::atomic<int> mistakes = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (std::int64_t count = 0; count < 60; ++count) {
        if (times_done(pool, count) != once_each(count)) ++mistakes;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(mistakes, 0);
}

TEST(ThreadPool, MayBeResizedWhileOthersUseIt) {
  ThreadPool pool(2);
  std::atomic<bool> stop = false;
  std::atomic<int> mistakes = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 2; ++caller) {
    callers.emplace_back([&] {
      while (!stop) {
        if (times_done(pool, 20) != once_each(20)) ++mistakes;
      }
    });
  }
  for (const unsigned size : {1U, 5U, 2U, 3U, 1U, 4U, 2U}) {
    pool.resize(size);
    EXPECT_EQ(pool.size(), size);
    EXPECT_EQ(times_done(pool, 50), once_each(50));
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(mistakes, 0);
}

TEST(ThreadPool, RefusesToBeResizedToNothing) {
  ThreadPool pool(3);
  expect_error<ShapeError>([&] { pool.resize(0); }, "cpu.ThreadPool.resize", "size", "1");
  EXPECT_EQ(pool.size(), 3U);
  EXPECT_EQ(times_done(pool, 10), once_each(10));
}

TEST(ThreadPool, MayGoWhereverItsThreadsAre) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool never_used(4);
    ThreadPool parked(4);
    EXPECT_EQ(times_done(parked, 6), once_each(6));
    ThreadPool used(3);
    // Workers that were woken, and have not come yet.
    used.run(2, [](std::int64_t, unsigned) {});
  }
}

TEST(ThreadPool, EndsWorkersThatComeLate) {
  ThreadPool pool(4);
  for (int round = 0; round < 100; ++round) {
    pool.run(4, [](std::int64_t, unsigned) {});
    pool.resize(round % 2 == 0 ? 3 : 4);
  }
  EXPECT_EQ(times_done(pool, 9), once_each(9));
}

#if defined(__linux__) && defined(SYS_sched_getattr)
TEST(ThreadPool, WorkersKeepTheSchedulingOfTheirProcess) {
  ThreadPool pool(2);
  std::atomic<int> begun = 0;
  int policies[2] = {}, priorities[2] = {};
  pool.run(2, [&](std::int64_t i, unsigned) {
    policies[i] = sched_getscheduler(0);
    sched_param parameter{};
    sched_getparam(0, &parameter);
    priorities[i] = parameter.sched_priority;
    begun.fetch_add(1);
    while (begun.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(policies[0], policies[1]);
  EXPECT_EQ(priorities[0], priorities[1]);
}
#endif

// The environment

/// Sets a variable while it lives; nothing: takes it away.
class Variable {
 public:
  Variable(const char* name, const std::optional<std::string>& value) : name_(name) {
    if (const char* before = std::getenv(name); before != nullptr) before_ = before;
    set(value);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { set(before_); }

 private:
  void set(const std::optional<std::string>& value) const {
#if defined(_WIN32)
    _putenv_s(name_, value.value_or("").c_str());
#else
    if (value) {
      setenv(name_, value->c_str(), 1);
    } else {
      unsetenv(name_);
    }
#endif
  }
  const char* name_;
  std::optional<std::string> before_;
};

constexpr const char* kVariable = "PAGEDKV_NUM_THREADS";

TEST(DefaultNumThreads, AreAsManyAsProcessorsUnlessTheEnvironmentSaysOtherwise) {
  for (const std::optional<std::string>& nothing : {std::optional<std::string>(), {""}}) {
    const Variable variable(kVariable, nothing);
    EXPECT_EQ(default_num_threads(), num_processors());
  }
  EXPECT_GE(num_processors(), 1U);
}

TEST(DefaultNumThreads, AreThoseOfTheEnvironment) {
  for (const unsigned number : {1U, 7U, 64U, 1024U}) {
    const Variable variable(kVariable, std::to_string(number));
    EXPECT_EQ(default_num_threads(), number);
  }
}

TEST(DefaultNumThreads, RefuseWhatIsNoNumberInRange) {
  for (const std::string text : {"0", "000", "1025", "-1", "+2", " 2", "2 ", "2.0", "0x4", "many",
                                 "4294967297", "18446744073709551617"}) {
    const Variable variable(kVariable, text);
    expect_error<UnsupportedError>([] { static_cast<void>(default_num_threads()); },
                                   "cpu.default_num_threads", std::string(kVariable) + "=" + text,
                                   "a number from 1 to 1024");
  }
}

}  // namespace
