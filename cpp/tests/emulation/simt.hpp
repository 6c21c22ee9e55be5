#pragma once

// Runs a GPU kernel on the CPU, one fiber a thread. Blocks run one after the other; the threads of
// a block run in turns, each until it waits at a barrier or at a collective of its warp. What a GPU
// leaves undefined and hides well, such as a barrier that not all threads reach, is an error here.

#include <array>
#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpp/tests/emulation/fiber_stacks.hpp"

namespace pagedkv::simt {

inline constexpr unsigned kWarpSize = 32;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;

  [[nodiscard]] std::size_t count() const noexcept { return std::size_t{x} * y * z; }
};

/// The kernel does what a GPU does not define.
class Error : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// In which order threads take their turns. A result that depends on it is a race.
enum class Order { forward, backward, shuffled };

/// Applies to the launches of this host thread.
inline Order& order() noexcept {
  thread_local Order value = Order::forward;
  return value;
}

/// A line of the kernel's source.
struct Place {
  const char* file;
  int line;

  friend bool operator==(const Place& a, const Place& b) noexcept {
    return a.line == b.line && std::strcmp(a.file, b.file) == 0;
  }
  [[nodiscard]] std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

class Block;

/// One thread of the block that runs.
struct Thread {
  enum class State : std::uint8_t { fresh, ready, at_barrier, at_collective, done };
  /// Of `copied` + `zeroed` bytes.
  struct Copy {
    void* to;
    const void* from;
    std::size_t copied;
    std::size_t zeroed;
  };

  Dim3 index;
  unsigned number = 0;  ///< in the block; warps are 32 of one after the other
  Block* block = nullptr;
  State state = State::fresh;
  Place place{"", 0};  ///< where it waits

  const void* operation = nullptr;  ///< the collective that it waits at, with these lanes
  std::uint32_t mask = 0;
  void* operands = nullptr;

  boost::context::detail::fcontext_t context = nullptr;
  FiberStack stack;

  std::vector<std::vector<Copy>> groups;  ///< of asynchronous copies, the oldest first
  std::vector<Copy> open_group;

  [[nodiscard]] unsigned lane() const noexcept { return number % kWarpSize; }
};

/// Of the thread whose code runs, by the names that CUDA has for them.
namespace indices {
inline thread_local constinit Dim3 threadIdx, blockIdx, blockDim, gridDim;
}

namespace detail {
inline thread_local constinit Thread* running = nullptr;
/// Thrown where a fiber waits, to unwind it, after another one has failed.
struct Cancelled {};
}  // namespace detail

/// The thread whose code runs.
[[nodiscard]] inline Thread& self() noexcept { return *detail::running; }

/// Operands of a collective by lane; null where a lane does not take part.
template <class T>
using Lanes = std::array<T*, kWarpSize>;

/// A block that runs.
class Block {
 public:
  Block(Dim3 grid, Dim3 shape, std::size_t shared_bytes, const std::function<void()>& kernel)
      : grid_(grid), shape_(shape), shared_bytes_(shared_bytes), kernel_(kernel) {
    const auto bytes = shared_bytes == 0 ? 1 : shared_bytes;
    shared_.reset(static_cast<std::byte*>(::operator new(bytes, kSharedAlignment)));
    threads_.resize(shape.count());
    for (unsigned i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      thread.block = this;
      thread.number = i;
      thread.index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
      thread.stack = FiberStacks::of_this_thread().at(i);
    }
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  [[nodiscard]] const Dim3& grid() const noexcept { return grid_; }
  [[nodiscard]] const Dim3& shape() const noexcept { return shape_; }
  [[nodiscard]] const Dim3& index() const noexcept { return index_; }
  /// Memory of the block: bytes of 0xff, a NaN of every type, where nobody has written.
  [[nodiscard]] std::byte* shared() const noexcept { return shared_.get(); }
  [[nodiscard]] std::size_t shared_bytes() const noexcept { return shared_bytes_; }

  /// Lanes that a warp has: 32, fewer in the last one.
  [[nodiscard]] std::uint32_t lanes_of_warp(unsigned warp) const noexcept {
    const std::size_t count = threads_.size() - std::size_t{warp} * kWarpSize;
    return count >= kWarpSize ? ~0U : (1U << count) - 1;
  }

  /// @throws Error for what a GPU does not define; whatever the kernel throws.
  void run(Dim3 index) {
    index_ = indices::blockIdx = index;
    indices::blockDim = shape_;
    indices::gridDim = grid_;
    std::memset(shared_.get(), 0xff, shared_bytes_);
    live_ = threads_.size();
    arrived_ = 0;
    votes_ = 0;
    failure_ = nullptr;
    for (Thread& thread : threads_) {
      thread.state = Thread::State::fresh;
      thread.groups.clear();
      thread.open_group.clear();
    }
    while (live_ != 0) {
      bool moved = false;
      for (std::size_t i = 0; i < threads_.size() && failure_ == nullptr; ++i) {
        Thread& thread = threads_[turn(i)];
        if (thread.state > Thread::State::ready) continue;
        moved = true;
        resume(thread);
      }
      ++pass_;
      if (!moved && failure_ == nullptr) failure_ = std::make_exception_ptr(stuck());
      if (failure_ != nullptr) return give_up();
    }
  }

  /// Waits for all threads that have not returned; the sum of their votes.
  std::size_t barrier(Place place, std::size_t vote) {
    Thread& me = self();
    if (arrived_ == 0) {
      barrier_ = place;
    } else if (barrier_ != place) {
      throw Error(named(me) + " waits at the barrier of " + place.text() + ", others at that of " +
                  barrier_.text());
    }
    votes_ += vote;
    ++arrived_;
    me.place = place;
    if (arrived_ == live_) {
      open_barrier();
    } else {
      me.state = Thread::State::at_barrier;
      wait();
    }
    return counted_;
  }

  /// Waits for the lanes of `mask`; the last to come calls `combine(Lanes<T>)` for all.
  template <class T, class Combine>
  void together(std::uint32_t mask, T& operands, Place place, Combine&& combine) {
    static constexpr char operation = 0;  // its address tells which one
    Thread& me = self();
    const unsigned first = me.number - me.lane();
    if ((mask >> me.lane() & 1) == 0 || (mask & ~lanes_of_warp(me.number / kWarpSize)) != 0) {
      throw Error(named(me) + " at " + place.text() +
                  ": a mask without itself, or of lanes that "
                  "do not exist");
    }
    me.operation = &operation;
    me.mask = mask;
    me.operands = &operands;
    me.place = place;
    Lanes<T> lanes{};
    bool complete = true;
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      Thread& other = threads_[first + lane];
      if (other.state == Thread::State::done) {
        throw Error(named(me) + " at " + place.text() + ": lane " + std::to_string(lane) +
                    " has returned");
      }
      const bool here = &other == &me || other.state == Thread::State::at_collective;
      complete = complete && here;
      if (here && (other.mask != mask || other.operation != &operation)) {
        throw Error(named(me) + " at " + place.text() + ", lane " + std::to_string(lane) +
                    " in another collective at " + other.place.text());
      }
      lanes[lane] = static_cast<T*>(other.operands);
    }
    if (!complete) {
      me.state = Thread::State::at_collective;
      return wait();
    }
    combine(std::as_const(lanes));
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (lanes[lane] != nullptr) threads_[first + lane].state = Thread::State::ready;
    }
  }

 private:
  static constexpr std::align_val_t kSharedAlignment{128};
  struct FreeShared {
    void operator()(std::byte* p) const noexcept { ::operator delete(p, kSharedAlignment); }
  };

  [[nodiscard]] std::string named(const Thread& thread) const {
    const auto text = [](Dim3 at) {
      return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
             std::to_string(at.z) + ")";
    };
    return "thread " + text(thread.index) + " of block " + text(index_);
  }

  [[nodiscard]] Error stuck() const {
    std::string message = "nobody can go on:";
    Place last{"", 0};
    for (const Thread& thread : threads_) {
      if (thread.state == Thread::State::done || thread.place == last) continue;
      last = thread.place;
      message += "\n  " + named(thread) + " waits at " + last.text() +
                 (thread.state == Thread::State::at_barrier ? ", a barrier" : ", a collective");
    }
    return Error(message);
  }

  [[nodiscard]] std::size_t turn(std::size_t i) const noexcept {
    const std::size_t count = threads_.size();
    switch (order()) {
      case Order::forward: return i;
      case Order::backward: return count - 1 - i;
      case Order::shuffled: break;
    }
    // A step that shares no factor with the number of threads visits each of them once.
    constexpr std::array<std::size_t, 4> steps{7919, 6007, 4513, 3571};
    const std::size_t step = steps[pass_ % steps.size()];
    return count % step == 0 ? i : (i * step + pass_ * 13) % count;
  }

  void open_barrier() noexcept {
    counted_ = votes_;
    votes_ = 0;
    arrived_ = 0;
    for (Thread& thread : threads_) {
      if (thread.state == Thread::State::at_barrier) thread.state = Thread::State::ready;
    }
  }

  void resume(Thread& thread) {
    if (thread.state == Thread::State::fresh) {
      thread.context =
          boost::context::detail::make_fcontext(thread.stack.top, thread.stack.size, &Block::enter);
      thread.state = Thread::State::ready;
    }
    detail::running = &thread;
    indices::threadIdx = thread.index;
    thread.context = from_scheduler_.jump(thread.context, this, thread.stack);
    detail::running = nullptr;
  }

  void wait() {
    Thread& me = self();
    to_scheduler_ = me.stack.leave(to_scheduler_, from_scheduler_);
    if (failure_ != nullptr) throw detail::Cancelled{};
  }

  static void enter(boost::context::detail::transfer_t from) noexcept {
    Block& block = *static_cast<Block*>(from.data);
    Thread& me = self();
    me.stack.arrive(block.from_scheduler_);
    block.to_scheduler_ = from.fctx;
    try {
      block.kernel_();
    } catch (const detail::Cancelled&) {
    } catch (...) {
      if (block.failure_ == nullptr) block.failure_ = std::current_exception();
    }
    me.state = Thread::State::done;
    --block.live_;
    if (block.live_ != 0 && block.arrived_ == block.live_) block.open_barrier();
    FiberStack::finish(block.to_scheduler_, block.from_scheduler_);
  }

  /// Unwinds what has begun, then throws what was found.
  void give_up() {
    for (Thread& thread : threads_) {
      if (thread.state != Thread::State::fresh && thread.state != Thread::State::done) {
        resume(thread);
      }
    }
    std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  Dim3 grid_, shape_, index_;
  std::size_t shared_bytes_;
  const std::function<void()>& kernel_;
  std::unique_ptr<std::byte, FreeShared> shared_;
  std::vector<Thread> threads_;
  std::size_t live_ = 0, arrived_ = 0, votes_ = 0, counted_ = 0, pass_ = 0;
  Place barrier_{"", 0};
  std::exception_ptr failure_;
  SchedulerStack from_scheduler_;
  boost::context::detail::fcontext_t to_scheduler_ = nullptr;
};

/// Runs `kernel` once for each thread of the grid.
/// @throws Error for what a GPU does not define, as it is found; whatever the kernel throws.
inline void launch(Dim3 grid, Dim3 shape, std::size_t shared_bytes,
                   const std::function<void()>& kernel) {
  if (detail::running != nullptr) throw Error("a kernel launches a kernel");
  Block block(grid, shape, shared_bytes, kernel);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) block.run({x, y, z});
    }
  }
}

/// A barrier of the block; the sum of the threads' votes.
inline std::size_t barrier(std::size_t vote = 0, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE()) {
  return self().block->barrier({file, line}, vote);
}

/// A collective of the lanes of `mask`: `combine(const Lanes<T>&)` reads and writes the operands of
/// all of them.
template <class T, class Combine>
void together(std::uint32_t mask, T& operands, Combine&& combine,
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  self().block->together(mask, operands, {file, line}, std::forward<Combine>(combine));
}

/// The lanes that the calling thread's warp has.
[[nodiscard]] inline std::uint32_t lanes_of_warp() noexcept {
  return self().block->lanes_of_warp(self().number / kWarpSize);
}

// Asynchronous copies happen as late as they may: when their thread waits for them.

inline void copy_async(void* to, const void* from, std::size_t copied, std::size_t zeroed) {
  self().open_group.push_back({to, from, copied, zeroed});
}

/// What was asked for since the last call is a group.
inline void commit_copies() {
  Thread& me = self();
  me.groups.push_back(std::exchange(me.open_group, {}));
}

/// Waits until at most the newest `pending` groups are on their way.
inline void wait_copies(std::size_t pending) {
  auto& groups = self().groups;
  if (groups.size() <= pending) return;
  const auto end = groups.end() - static_cast<std::ptrdiff_t>(pending);
  for (auto group = groups.begin(); group != end; ++group) {
    for (const Thread::Copy& copy : *group) {
      if (copy.copied != 0) std::memcpy(copy.to, copy.from, copy.copied);
      std::memset(static_cast<std::byte*>(copy.to) + copy.copied, 0, copy.zeroed);
    }
  }
  groups.erase(groups.begin(), end);
}

}  // namespace pagedkv::simt
