// The pool of threads on both sides of fork().

#include <gtest/gtest.h>

#if defined(_WIN32)

TEST(ThreadPoolAfterFork, DoesNotExistHere) { GTEST_SKIP() << "this system has no fork()"; }

#else

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include "pagedkv/cpu/thread_pool.hpp"

namespace {

using namespace pagedkv::cpu;

/// Whether each of a few tasks is done once.
bool works(ThreadPool& pool) {
  std::atomic<int> done[40] = {};
  pool.run(40, [&](std::int64_t i, unsigned) { done[i].fetch_add(1); });
  for (const auto& times : done) {
    if (times != 1) return false;
  }
  return true;
}

/// Whether as many tasks as the pool has threads, which wait for each other, are done: by all of
/// them, then. None is still beginning after it, which a fork() under AddressSanitizer must wait
/// for: its lock of threads stays locked in the child if one of the parent's was just being made.
bool has_workers(ThreadPool& pool) {
  const unsigned all = pool.size();
  std::atomic<unsigned> begun = 0;
  pool.run(all, [&](std::int64_t, unsigned) {
    begun.fetch_add(1);
    while (begun.load() < all) std::this_thread::yield();
  });
  return begun == all;
}

/// Whether `call` gives true in a forked process, which a signal ends when it hangs.
template <class Call>
bool in_child(Call call) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(30);
    ::_exit(call() ? 0 : 1);
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(ThreadPoolAfterFork, HasWorkersInTheChildAndInTheParent) {
  ThreadPool pool(3);
  EXPECT_TRUE(has_workers(pool));
  for (int round = 0; round < 5; ++round) {
    EXPECT_TRUE(in_child([&] { return works(pool) && has_workers(pool); }));
    EXPECT_TRUE(works(pool) && has_workers(pool));
  }
}

TEST(ThreadPoolAfterFork, WorksWhereItWasNeverUsedBefore) {
  ThreadPool pool(3);
  EXPECT_TRUE(in_child([&] { return works(pool) && has_workers(pool); }));
  EXPECT_TRUE(has_workers(pool));
}

TEST(ThreadPoolAfterFork, WorksInTheChildOfAChild) {
  ThreadPool pool(2);
  EXPECT_TRUE(has_workers(pool));
  EXPECT_TRUE(
      in_child([&] { return in_child([&] { return has_workers(pool); }) && has_workers(pool); }));
}

TEST(ThreadPoolAfterFork, MayBeResizedAndDestroyedInTheChild) {
  auto* const pool = new ThreadPool(3);
  EXPECT_TRUE(has_workers(*pool));
  EXPECT_TRUE(in_child([&] {
    pool->resize(2);
    return has_workers(*pool);
  }));
  EXPECT_TRUE(in_child([&] {
    delete pool;  // as it came from the parent, whose threads are not here
    return true;
  }));
  EXPECT_TRUE(in_child([&] {
    const bool right = works(*pool);
    delete pool;
    return right;
  }));
  EXPECT_TRUE(works(*pool));
  delete pool;
}

TEST(ThreadPoolAfterFork, IsNotHeldByWhatTheParentWasDoing) {
  ThreadPool pool(3);
  EXPECT_TRUE(has_workers(pool));
  std::atomic<bool> begun = false, stop = false;
  std::thread busy([&] {
    begun = true;
    while (!stop) works(pool);
  });
  while (!begun) std::this_thread::yield();
  for (int round = 0; round < 20; ++round) {
    EXPECT_TRUE(in_child([&] { return works(pool) && has_workers(pool); }));
  }
  stop = true;
  busy.join();
  EXPECT_TRUE(has_workers(pool));
}

TEST(ThreadPoolAfterFork, ServesSeveralThreadsOfTheChild) {
  ThreadPool pool(3);
  EXPECT_TRUE(has_workers(pool));
  EXPECT_TRUE(in_child([&] {
    std::atomic<bool> right = true;
    std::thread threads[3];
    for (std::thread& thread : threads) {
      thread = std::thread([&] {
        if (!works(pool)) right = false;
      });
    }
    for (std::thread& thread : threads) thread.join();
    return right && has_workers(pool);
  }));
}

}  // namespace

#endif
