#pragma once
// The story example as a library: its parts, and its command line.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/golden.hpp"

#define main story_main
#include "../../examples/story.cpp"
#undef main

namespace longspan::testing {

/// A file of the small checkpoint.
inline std::string story_file(const std::string& name) { return (*data_folder() / "stories260K" / name).string(); }

struct Outcome {
  int status;
  std::string out, err;
};

/// The program with these arguments.
inline Outcome story(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "story");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Outcome outcome{story_main(static_cast<int>(argv.size()), argv.data()), "", ""};
  outcome.out = ::testing::internal::GetCapturedStdout();
  outcome.err = ::testing::internal::GetCapturedStderr();
  return outcome;
}

/// The program with the small checkpoint and these options.
inline Outcome small_story(const std::vector<std::string>& options) {
  std::vector<std::string> arguments{story_file("stories260K.bin"), story_file("tok512.bin")};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return story(arguments);
}

/// The first 8192 tokens of data/text/tinystories.txt by the original engine.
inline std::vector<int> story_tokens() {
  std::istringstream text(read_file(story_file("tinystories_tokens.txt")));
  return {std::istream_iterator<int>(text), {}};
}

}  // namespace longspan::testing
