// The version, and the inline namespace that carries it.

#include "pagedkv/version.hpp"

#include <gtest/gtest.h>

#include <string>
#include <type_traits>

#include "pagedkv/pagedkv.hpp"

#define PAGEDKV_TEST_JOIN_(a, b, c, d) a##b##c##d
#define PAGEDKV_TEST_JOIN(a, b, c, d) PAGEDKV_TEST_JOIN_(a, b, c, d)
#define PAGEDKV_TEST_NAMESPACE PAGEDKV_TEST_JOIN(v, PAGEDKV_VERSION_MAJOR, _, PAGEDKV_VERSION_MINOR)

namespace {

namespace versioned = pagedkv::PAGEDKV_TEST_NAMESPACE;

static_assert(std::is_same_v<pagedkv::BlockAllocator, versioned::BlockAllocator>,
              "the inline namespace is v<major>_<minor>");

TEST(Version, IsMajorMinorPatch) {
  EXPECT_EQ(std::string(pagedkv::version), std::to_string(PAGEDKV_VERSION_MAJOR) + "." +
                                               std::to_string(PAGEDKV_VERSION_MINOR) + "." +
                                               std::to_string(PAGEDKV_VERSION_PATCH));
  EXPECT_STREQ(pagedkv::version, PAGEDKV_VERSION);
}

}  // namespace
