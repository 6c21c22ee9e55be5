// The kernels, compiled as C++.

#include "cpp/tests/emulation/metal/kernels.hpp"

#include <stdexcept>
#include <string>

#include "cpp/tests/emulation/simt.hpp"

// Last: it gives other meanings to words.
#include <metal_stdlib>

#include "metal/kernels/attention.metal"
#include "metal/kernels/data.metal"
#include "metal/kernels/merge.metal"
#include "metal/kernels/rope.metal"

namespace {

using pagedkv::simt::self;

/// Stands for any pointer or reference that a parameter is.
struct Any {
  const void* address;

  template <class T>
  operator T*() const {  // NOLINT(google-explicit-constructor)
    return static_cast<T*>(const_cast<void*>(address));
  }
  template <class T>
  operator const T&() const {  // NOLINT(google-explicit-constructor)
    return *static_cast<const T*>(address);
  }
};

uint3 group_at() {
  const auto& at = self().block->index();
  return {at.x, at.y, at.z};
}
uint2 thread_at() {
  const auto &shape = self().block->shape(), &at = self().block->index();
  return {at.x * shape.x + self().index.x, at.y * shape.y + self().index.y};
}
uint lane() { return self().lane(); }
uint simdgroup() { return self().number / kSimdWidth; }

}  // namespace

void pagedkv_test::run_metal_thread(const char* name, const void* const* arrays) {
  const auto a = [&](unsigned i) { return Any{arrays[i]}; };
  const std::string which = name;
  if (which == "write_rows") {
    write_rows(a(0), a(1), a(2), a(3), a(4), thread_at());
  } else if (which == "gather_starts") {
    gather_starts(a(0), a(1), a(2), a(3), lane());
  } else if (which == "gather_rows") {
    gather_rows(a(0), a(1), a(2), a(3), a(4), a(5), thread_at());
  } else if (which == "copy_indexed") {
    copy_indexed(a(0), a(1), a(2), a(3), a(4), thread_at());
  } else if (which == "rope_rows") {
    rope_rows(a(0), a(1), a(2), a(3), a(4), a(5), a(6), a(7), group_at(), simdgroup(), lane());
  } else if (which == "merge_states") {
    merge_states(a(0), a(1), a(2), a(3), a(4), a(5), a(6), group_at(), simdgroup(), lane());
  } else if (which == "merge_pieces") {
    merge_pieces(a(0), a(1), a(2), a(3), a(4), a(5), a(6), a(7), group_at(), simdgroup(), lane());
  } else if (which == "attend") {
    attend(a(0), a(1), a(2), a(3), a(4), a(5), a(6), a(7), a(8), a(9), a(10), a(11), a(12), a(13),
           a(14), a(15), Any{self().block->shared()}, group_at(), self().number, simdgroup(),
           lane());
  } else {
    throw std::out_of_range("no kernel " + which);
  }
}
