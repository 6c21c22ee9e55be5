// What the types promise at compile time: what can be copied, what is a device. That this file
// compiles is the test.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "pagedkv/pagedkv.hpp"
#include "recording_backend.hpp"

namespace {

using namespace pagedkv;

template <class T>
constexpr bool moves_alone =
    std::movable<T> && !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T> &&
    std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T>;

// A copy would free the same blocks twice.
static_assert(moves_alone<PagedSeqState<CpuBackend>>);
static_assert(moves_alone<KvCache<CpuBackend>>);
static_assert(moves_alone<BlockAllocator>);
static_assert(moves_alone<BlockPool> && moves_alone<KvCachePool> && moves_alone<SsmStatePool>);
static_assert(moves_alone<SequencePool>);
static_assert(moves_alone<detail::Storage> && moves_alone<cpu::Buffer>);

// These own nothing that a copy could give back.
static_assert(std::regular<SsmStateSpec>);
static_assert(std::copyable<BlockTable> && std::copyable<PagedKvCache>);
static_assert(std::copyable<SsmSnapshot>);
static_assert(std::is_trivially_copyable_v<SsmSlot> && std::is_trivially_copyable_v<SsmSlotView>);

// A slot for reading cannot be written through.
template <class Slot>
constexpr bool is_writable = requires(const Slot slot, const SsmSnapshot snapshot) {
  slot.advance();
  slot.restore(snapshot);
} && !std::is_const_v<std::remove_reference_t<decltype(std::declval<Slot>().ssm_state()[0])>>;
static_assert(is_writable<SsmSlot> && !is_writable<SsmSlotView>);
static_assert(std::same_as<decltype(std::declval<const SsmStatePool&>().slot(0)),
                           std::optional<SsmSlotView>>);

static_assert(Backend<CpuBackend>);
static_assert(Backend<pagedkv_test::RecordingBackend> && Backend<pagedkv_test::ForkShyBackend>);

// Each of these lacks one thing.
struct WithoutContext : CpuBackend {
  static void context(Device) = delete;
};
struct WithoutWrite : CpuBackend {
  static void write(Context&, Buffer&) {}
};
struct WithoutRows : CpuBackend {
  static void read_rows(Context&) {}
};
struct WithoutForkPromise : CpuBackend {
  struct survives_fork {};
};
struct CopyableBuffer {
  [[nodiscard]] DType dtype() const { return DType::int32; }
  [[nodiscard]] std::size_t size() const { return 0; }
};
struct WithCopyableBuffers : CpuBackend {
  using Buffer = CopyableBuffer;
  static Buffer allocate(Device, DType, std::size_t, std::byte) { return {}; }
  static void write(Context&, Buffer&, std::size_t, std::span<const std::int32_t>) {}
  static void read(Context&, const Buffer&, std::size_t, std::span<std::int32_t>) {}
  static void write_rows(Context&, Buffer&, const RowCopy&, const std::byte*) {}
  static void read_rows(Context&, const Buffer&, const RowCopy&, std::byte*) {}
  static void copy(Context&, Buffer&, std::size_t, const Buffer&, std::size_t, std::size_t) {}
};
static_assert(!Backend<WithoutContext>);
static_assert(!Backend<WithoutWrite>);
static_assert(!Backend<WithoutRows>);
static_assert(!Backend<WithoutForkPromise>);
static_assert(!Backend<WithCopyableBuffers>, "two owners of one device buffer");
static_assert(!Backend<int>);

template <class B>
concept HasCache = requires { typename KvCache<B>; };
static_assert(HasCache<CpuBackend> && !HasCache<WithoutWrite>);

}  // namespace
