#pragma once

// Stacks of fibers, and the switches between them that AddressSanitizer is told of.

#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define PAGEDKV_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PAGEDKV_SIMT_ASAN 1
#endif
#endif
#if defined(PAGEDKV_SIMT_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace pagedkv::simt {

namespace detail {
/// Before a switch to another stack; `keep` is null when this one is never come back to.
inline void leave_stack([[maybe_unused]] void** keep, [[maybe_unused]] const void* bottom,
                        [[maybe_unused]] std::size_t size) noexcept {
#if defined(PAGEDKV_SIMT_ASAN)
  __sanitizer_start_switch_fiber(keep, bottom, size);
#endif
}

/// After a switch; tells which stack was left.
inline void arrive_on_stack([[maybe_unused]] void* kept, [[maybe_unused]] const void** bottom,
                            [[maybe_unused]] std::size_t* size) noexcept {
#if defined(PAGEDKV_SIMT_ASAN)
  __sanitizer_finish_switch_fiber(kept, bottom, size);
#endif
}
}  // namespace detail

struct FiberStack;

/// The host thread's own stack, which fibers are started from.
struct SchedulerStack {
  const void* bottom = nullptr;
  std::size_t size = 0;

  /// Runs a fiber until it leaves; where it goes on the next time.
  boost::context::detail::fcontext_t jump(boost::context::detail::fcontext_t to, void* data,
                                          const FiberStack& stack);
};

struct FiberStack {
  void* top = nullptr;
  std::size_t size = 0;

  /// First thing on a fiber.
  void arrive(SchedulerStack& from) const noexcept {
    detail::arrive_on_stack(nullptr, &from.bottom, &from.size);
  }
  /// Goes to the scheduler; returns when the fiber is resumed, with the way back.
  boost::context::detail::fcontext_t leave(boost::context::detail::fcontext_t scheduler,
                                           SchedulerStack& stack) const {
    void* kept = nullptr;
    detail::leave_stack(&kept, stack.bottom, stack.size);
    const auto back = boost::context::detail::jump_fcontext(scheduler, nullptr);
    detail::arrive_on_stack(kept, &stack.bottom, &stack.size);
    return back.fctx;
  }
  /// Last thing on a fiber.
  static void finish(boost::context::detail::fcontext_t scheduler,
                     const SchedulerStack& stack) noexcept {
    detail::leave_stack(nullptr, stack.bottom, stack.size);
    boost::context::detail::jump_fcontext(scheduler, nullptr);
  }
};

inline boost::context::detail::fcontext_t SchedulerStack::jump(
    boost::context::detail::fcontext_t to, void* data, const FiberStack& stack) {
  void* kept = nullptr;
  detail::leave_stack(&kept, static_cast<const std::byte*>(stack.top) - stack.size, stack.size);
  const auto back = boost::context::detail::jump_fcontext(to, data);
  detail::arrive_on_stack(kept, nullptr, nullptr);
  return back.fctx;
}

/// Stacks that are kept from launch to launch. Below each lies a page that nobody may touch.
class FiberStacks {
 public:
  static FiberStacks& of_this_thread() {
    thread_local FiberStacks stacks;
    return stacks;
  }

  FiberStacks() = default;
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;
  ~FiberStacks() {
    for (void* mapping : mappings_) munmap(mapping, kBytes);
  }

  FiberStack at(std::size_t i) {
    while (mappings_.size() <= i) add();
    const auto guard = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return {static_cast<std::byte*>(mappings_[i]) + kBytes, kBytes - guard};
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{512} << 10;  // most of it is never touched

  void add() {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapping = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    mprotect(mapping, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE);
    mappings_.push_back(mapping);
  }

  std::vector<void*> mappings_;
};

}  // namespace pagedkv::simt
