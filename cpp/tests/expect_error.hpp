#pragma once

// Errors as values: each must be of one exact type and tell the function, what was given and what
// was expected.

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <typeinfo>

namespace pagedkv_test {

/// The message must read "[where] ...given...; expected ...expected...".
inline void expect_message(std::string_view message, std::string_view where, std::string_view given,
                           std::string_view expected) {
  EXPECT_TRUE(message.starts_with("[" + std::string(where) + "] "))
      << message << "\n  does not begin with the function " << where;
  const auto middle = message.find("; expected ");
  if (middle == message.npos) {
    ADD_FAILURE() << message << "\n  does not say what was expected";
    return;
  }
  EXPECT_NE(message.substr(0, middle).find(given), message.npos)
      << message << "\n  does not say that it was given " << given;
  EXPECT_NE(message.substr(middle).find(expected), message.npos)
      << message << "\n  does not say that it expected " << expected;
}

/// The error that `call` throws. It must be an `E`, no class derived from it, with such a message.
template <class E, class Call>
E expect_error(Call call, std::string_view where, std::string_view given,
               std::string_view expected) {
  try {
    call();
  } catch (const E& error) {
    EXPECT_TRUE(typeid(error) == typeid(E));
    expect_message(error.what(), where, given, expected);
    return error;
  }
  throw std::logic_error("no error came from " + std::string(where));  // fails the test
}

}  // namespace pagedkv_test
