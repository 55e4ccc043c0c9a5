// How well the real model foresees 8192 tokens, with each scaling of its rotary frequencies, as the engine it comes
// from.

#include "story.hpp"

namespace longspan::testing {
namespace {

constexpr Index kBuckets[] = {1, 512, 1024, 2048, 4096, 8192};
constexpr double kTolerance = 0.002;

/// "none 1" and the like, to the mean of each bucket.
std::map<std::string, std::vector<double>> expected_means() {
  std::map<std::string, std::vector<double>> rows;
  std::istringstream lines(read_file(story_file("tinystories_nll.txt")));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    std::string method, factor;
    words >> method >> factor;
    rows[method + ' ' + factor] = {std::istream_iterator<double>(words), {}};
  }
  return rows;
}

TEST(StoryNll, IsTheOriginals) {
  LONGSPAN_NEEDS_DATA();
  const auto expected = expected_means();
  const std::string text = (*data_folder() / "text" / "tinystories.txt").string();
  EXPECT_EQ(expected.size(), 12u);  // none; linear 2, 4, 8; ntk and yarn 2, 4, 8, 16
  for (const auto& [row, means] : expected) {
    ASSERT_EQ(means.size(), std::size(kBuckets) - 1) << row;
    std::istringstream words(row);
    std::string method, factor;
    words >> method >> factor;
    const Outcome outcome = small_story({"--nll", text, "--tokens", "8192", "--buckets", "1,512,1024,2048,4096,8192",
                                         "--rope", method, "--factor", factor});
    ASSERT_EQ(outcome.status, 0) << row << ": " << outcome.err;
    std::istringstream lines(outcome.out);
    for (std::size_t b = 0; b < means.size(); ++b) {
      std::string range;
      double mean = NAN;
      lines >> range >> mean;
      EXPECT_EQ(range, "[" + std::to_string(kBuckets[b]) + "," + std::to_string(kBuckets[b + 1]) + ")") << row;
      EXPECT_TRUE(std::abs(mean - means[b]) <= kTolerance)
          << row << ' ' << range << ": got " << mean << ", expected " << means[b];
    }
    EXPECT_TRUE((lines >> std::ws).eof()) << row;
  }
}

TEST(StoryNll, IsTheSameOneTokenAtATime) {
  LONGSPAN_NEEDS_DATA();
  const Model model = load_model(story_file("stories260K.bin"));
  const std::vector<int> tokens = story_tokens();
  const Index size = std::ssize(tokens);
  Engine chunked(model, make_rope({}, model), size, 2), single(model, make_rope({}, model), size, 2);
  const std::vector<double> expected = negative_log_likelihoods(chunked, tokens);
  double sum = 0, expected_sum = 0;
  for (Index t = 0; t + 1 < size; ++t) {
    const Eigen::ArrayXXd logits = single.logits(single.read(std::span(tokens).subspan(t, 1))).cast<double>();
    sum += std::log((logits - logits.maxCoeff()).exp().sum()) + logits.maxCoeff() - logits(0, tokens[t + 1]);
    expected_sum += expected[t + 1];
    if (std::find(std::begin(kBuckets), std::end(kBuckets), t + 2) == std::end(kBuckets)) continue;
    const double count = static_cast<double>(t + 1);
    EXPECT_TRUE(std::abs(sum - expected_sum) / count <= kTolerance / 10) << "up to position " << t + 1;
  }
}

}  // namespace
}  // namespace longspan::testing
