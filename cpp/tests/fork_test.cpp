// A device that does not survive fork(): every use of an object on it in the child is refused.

#include <gtest/gtest.h>

#if defined(_WIN32)

TEST(Fork, DoesNotExistHere) { GTEST_SKIP() << "this system has no fork()"; }

#else

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pagedkv/core/kv_cache.hpp"
#include "recording_backend.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::ForkShyBackend;

/// What happened to `call` in a forked process: 'r' refused as it must be, 'o' it went through, 'e'
/// another error, '?' a crash.
template <class Call>
char in_child(std::string_view where, Call call) {
  const pid_t child = ::fork();
  if (child == 0) {
    char outcome = 'o';
    try {
      call();
    } catch (const UnsupportedError& error) {
      const std::string message = error.what();
      const bool clear = message.starts_with("[" + std::string(where) + "] used in a process") &&
                         message.find("; expected the process that made it") != message.npos;
      outcome = clear ? 'r' : 'e';
    } catch (const std::exception&) {
      outcome = 'e';
    }
    ::_exit(outcome);
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return '?';
  return static_cast<char>(WEXITSTATUS(status));
}

template <class B>
struct Objects {
  typename B::Context ctx = B::context({});
  std::shared_ptr<BlockAllocator> alloc = std::make_shared<BlockAllocator>(8);
  PagedSeqState<B> state{4, 4};
  KvCache<B> paged = KvCache<B>::paged(8, 1, 1, 4, 4, alloc);
  KvCache<B> contiguous = KvCache<B>::contiguous(8, 1, 1);
  std::vector<float> token{1.0f};
  std::vector<float> out{0.0f};

  Objects() {
    state.ensure_capacity(ctx, *alloc, 4);
    state.set_len(4);
    state.sync_context_len(ctx);
    paged.template append<float>(token, token);
    contiguous.template append<float>(token, token);
  }

  /// Each use of the device, and what became of it in a child.
  std::vector<std::pair<std::string, char>> uses_in_child() {
    std::vector<std::pair<std::string, char>> outcomes;
    const auto use = [&](std::string where, auto call) {
      const char outcome = in_child(where, call);
      outcomes.emplace_back(std::move(where), outcome);
    };
    use("PagedSeqState.ensure_capacity", [&] { state.ensure_capacity(ctx, *alloc, 8); });
    use("PagedSeqState.ensure_capacity", [&] { state.ensure_capacity(ctx, *alloc, 0); });
    use("PagedSeqState.sync_context_len", [&] { state.sync_context_len(ctx); });
    use("PagedSeqState.release", [&] { state.release(ctx, *alloc); });
    use("KvCache.share", [&] { (void)paged.share(); });
    for (auto* cache : {&paged, &contiguous}) {
      use("KvCache.append", [&] { cache->template append<float>(token, token); });
      use("KvCache.reserve", [&] { cache->reserve(ctx, 1); });
      use("KvCache.to_dense", [&] { cache->template to_dense<float>(out, out); });
      use("KvCache.truncate", [&] { cache->truncate(ctx, 0); });
    }
    return outcomes;
  }
};

TEST(Fork, EveryUseOfADeviceObjectInTheChildIsRefused) {
  Objects<ForkShyBackend> objects;
  for (const auto& [where, outcome] : objects.uses_in_child()) EXPECT_EQ(outcome, 'r') << where;
}

TEST(Fork, ARefusedCallHasChangedNothing) {
  Objects<ForkShyBackend> objects;
  EXPECT_EQ(in_child("child",
                     [&] {
                       const auto attempt = [](auto call) {
                         try {
                           call();
                         } catch (const UnsupportedError&) {
                           return;
                         }
                         throw std::runtime_error("went through");
                       };
                       attempt([&] { objects.state.release(objects.ctx, *objects.alloc); });
                       attempt([&] { objects.paged.truncate(objects.ctx, 0); });
                       attempt([&] { objects.paged.reserve(objects.ctx, 8); });
                       if (objects.alloc->in_use() != 2 || objects.paged.len() != 1 ||
                           objects.state.len() != 4) {
                         throw std::runtime_error("changed");
                       }
                     }),
            'o');
}

TEST(Fork, HostSideOfAnObjectCanBeGivenUpInTheChild) {
  Objects<ForkShyBackend> objects;
  EXPECT_EQ(in_child("child",
                     [&] {
                       objects.state.release(*objects.alloc);
                       objects.paged.release();
                       if (objects.alloc->in_use() != 0)
                         throw std::runtime_error("blocks are still held");
                     }),
            'o');
}

TEST(Fork, AMovedObjectBelongsToTheProcessThatMadeIt) {
  Objects<ForkShyBackend> objects;
  EXPECT_EQ(in_child("PagedSeqState.sync_context_len",
                     [&] {
                       auto moved = std::move(objects.state);
                       moved.sync_context_len(objects.ctx);
                     }),
            'r');
}

TEST(Fork, TheParentGoesOnWorking) {
  Objects<ForkShyBackend> objects;
  (void)objects.uses_in_child();
  objects.paged.append<float>(objects.token, objects.token);
  EXPECT_EQ(objects.paged.len(), 2u);
}

TEST(Fork, MemoryOfTheCpuSurvivesAndMayBeUsed) {
  Objects<CpuBackend> objects;
  for (const auto& [where, outcome] : objects.uses_in_child()) EXPECT_EQ(outcome, 'o') << where;
}

}  // namespace

#endif
