#pragma once
// Bad input: std::invalid_argument "longspan: <argument>: got <value>, expected <value>".

#include <gtest/gtest.h>

#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <string>

namespace longspan::testing {

/// Success when f() throws std::invalid_argument with exactly the message that these three make.
template <class F, class Got, class Wanted>
::testing::AssertionResult refused(F&& f, const char* argument, const Got& got, const Wanted& wanted) {
  std::ostringstream text;
  text << std::setprecision(9) << "longspan: " << argument << ": got " << got << ", expected " << wanted;
  const std::string message = text.str();
  try {
    f();
  } catch (const std::invalid_argument& error) {
    if (error.what() == message) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "threw \"" << error.what() << "\", expected \"" << message << "\"";
  } catch (const std::exception& error) {
    return ::testing::AssertionFailure() << "threw another exception: " << error.what();
  }
  return ::testing::AssertionFailure() << "nothing thrown, expected \"" << message << "\"";
}

}  // namespace longspan::testing
