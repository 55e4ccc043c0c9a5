// The real model: its text, its tokens and its logits are those of the engine it comes from, attention over its queries
// and keys has the same bits however they come, and no file, whatever its bytes, does more than be refused.

#include <unistd.h>

#include "story.hpp"

#include "support/near.hpp"
#include "support/random.hpp"

namespace longspan::testing {
namespace {

Model small_model() { return load_model(story_file("stories260K.bin")); }
Tokenizer small_tokenizer() { return {story_file("tok512.bin"), 512}; }
ls::Rope<ls::Adjacent> plain_rope(const Model& model) { return make_rope({}, model); }

/// A file of these bytes for as long as this lives.
struct Temporary {
  explicit Temporary(const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
  ~Temporary() { std::filesystem::remove(path); }
  std::string path = ::testing::TempDir() + "longspan_story_" + std::to_string(::getpid());
};

// ---- what it tells --------------------------------------------------------------------------------------------------

TEST(Story, TellsTheGreedyStory) {
  LONGSPAN_NEEDS_DATA();
  const std::string expected = read_file(story_file("greedy_256.txt"));
  for (const char* threads : {"1", "3"}) {
    const Outcome told = small_story({"--tokens", "256", "--threads", threads});
    EXPECT_EQ(told.status, 0) << told.err;
    EXPECT_EQ(told.out, expected) << threads << " threads";
  }
}

TEST(Story, GoesOnFromAPrompt) {
  LONGSPAN_NEEDS_DATA();
  const std::string expected = read_file(story_file("greedy_256.txt"));
  for (const std::size_t letters : {16, 40, 300}) {  // one page and more
    const std::string prompt = expected.substr(0, expected.find(' ', letters));
    EXPECT_EQ(small_story({"--prompt", prompt}).out, expected) << prompt;
  }
}

TEST(Story, DrawsBySeed) {
  LONGSPAN_NEEDS_DATA();
  const auto told = [](const char* seed) {
    return small_story({"--tokens", "60", "--temperature", "1", "--seed", seed}).out;
  };
  EXPECT_EQ(told("7"), told("7"));
  EXPECT_NE(told("7"), told("8"));
}

TEST(Story, ReadsBeyondTheTrainedContext) {
  LONGSPAN_NEEDS_DATA();
  const Outcome told = small_story({"--tokens", "700", "--temperature", "1", "--rope", "ntk", "--factor", "2"});
  EXPECT_EQ(told.status, 0) << told.err;
}

TEST(Story, HasTheOriginalsLogits) {
  LONGSPAN_NEEDS_DATA();
  std::istringstream lines(read_file(story_file("tinystories_logits.txt")));
  std::map<Index, std::vector<double>> expected;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    Index position = 0;
    numbers >> position;
    expected[position] = {std::istream_iterator<double>(numbers), {}};
    ASSERT_EQ(expected[position].size(), 512u);
  }
  ASSERT_EQ(expected.size(), 5u);

  const Model model = small_model();
  std::vector<int> tokens = story_tokens();
  tokens.resize(512);
  for (const Index chunk : {1, 100, 512}) {
    Engine engine(model, plain_rope(model), 512, 1);
    for (Index first = 0; first < 512; first += chunk) {
      const Index size = std::min(chunk, 512 - first);
      const Matrix logits = engine.logits(engine.read(std::span(tokens).subspan(first, size)));
      for (Index t = 0; t < size; ++t)
        if (expected.contains(first + t)) {
          EXPECT_TRUE(near(std::span(logits.row(t).data(), 512), expected[first + t], 1e-4, 1))
              << "position " << first + t << ", chunks of " << chunk;
        }
    }
  }
}

TEST(Story, ReadsAClassifierOfItsOwn) {
  LONGSPAN_NEEDS_DATA();
  std::string bytes = read_file(story_file("stories260K.bin"));
  const std::int32_t vocabulary = -512;
  std::memcpy(bytes.data() + 5 * sizeof vocabulary, &vocabulary, sizeof vocabulary);
  for (std::size_t i = 0; i < 512 * 64; ++i) {  // the embedding's double
    float weight = 0;
    std::memcpy(&weight, bytes.data() + 28 + 4 * i, 4);
    weight *= 2;
    bytes.append(reinterpret_cast<const char*>(&weight), 4);
  }
  const Model model = small_model(), doubled = load_model(Temporary(bytes).path);
  const int tokens[] = {1, 385, 328};
  Engine one(model, plain_rope(model), 3, 1), two(doubled, plain_rope(model), 3, 1);
  EXPECT_EQ(2 * one.logits(one.read(tokens)), two.logits(two.read(tokens)));
}

// ---- tokens ---------------------------------------------------------------------------------------------------------

TEST(Story, EncodesAsTheOriginal) {
  LONGSPAN_NEEDS_DATA();
  std::vector<int> tokens = small_tokenizer().encode(read_file(*data_folder() / "text" / "tinystories.txt"));
  ASSERT_GE(tokens.size(), 8192u);
  tokens.resize(8192);
  EXPECT_EQ(tokens, story_tokens());
}

TEST(Story, SpellsAnyBytes) {
  LONGSPAN_NEEDS_DATA();
  const Tokenizer tokenizer = small_tokenizer();
  const auto round_trip = [&](const std::string& text) {
    const std::vector<int> tokens = tokenizer.encode(text);
    EXPECT_EQ(tokens.front(), kBeginOfText);
    std::string again;
    for (std::size_t i = 1; i < tokens.size(); ++i) again += tokenizer.decode(tokens[i - 1], tokens[i]);
    return again;
  };
  for (const char* text :
       {"", " ", "a", "  two  spaces ", "h\xc3\xa9, \xe2\x82\xac and \xf0\x9f\x98\x80", "\n\ttabs\n"})
    EXPECT_EQ(round_trip(text), text);
  Random random(20240703);
  for (int trial = 0; trial < 200; ++trial) {
    std::string text;
    for (Index i = random.between(0, 60); i > 0; --i) text += static_cast<char>(random.between(0, 255));
    std::string printable = text;  // the others are left out
    std::erase_if(printable, [](unsigned char c) { return std::iscntrl(c) && !std::isspace(c); });
    EXPECT_EQ(round_trip(text), printable) << "trial " << trial;
  }
}

TEST(Story, EncodesALongTextInTime) {
  LONGSPAN_NEEDS_DATA();
  EXPECT_GT(small_tokenizer().encode(std::string(1 << 20, 'o')).size(), 1000u);
}

// ---- the same bits --------------------------------------------------------------------------------------------------

/// Queries, keys and values of a middle layer.
Projections captured(Index length) {
  Model model = small_model();
  const Layer layer = model.layers[3];
  model.layers.resize(3);
  std::vector<int> tokens = story_tokens();
  tokens.resize(length);
  Engine engine(model, plain_rope(model), length, 1);
  const Matrix x = engine.read(tokens);
  return project(model, layer, x, plain_rope(model).table({0, length}), 0);
}

TEST(Story, AttentionHasTheSameBitsHoweverTheTokensCome) {
  LONGSPAN_NEEDS_DATA();
#ifdef __SANITIZE_ADDRESS__
  constexpr Index kLength = 300;  // 2200 takes it a quarter of a minute
#else
  constexpr Index kLength = 2200;  // more keys than one split of the kernels has
#endif
  constexpr Index kHeads = 8, kKvHeads = 4, kDim = 8;
  const Projections p = captured(kLength);
  const TensorView<const float> q = ls::view(p.q, kHeads), k = ls::view(p.k, kKvHeads), v = ls::view(p.v, kKvHeads);
  const auto attend = ls::attention(ls::Causal{});
  ls::ThreadPool pool(2);

  Matrix expected(p.q.rows(), p.q.cols());
  attend(q, k, v, ls::view(expected, kHeads));
  EXPECT_TRUE(expected.allFinite());
  const auto same = [&](const Matrix& out) {
    return same_bits(std::span(out.data(), out.size()), std::span(expected.data(), expected.size()));
  };

  for (const Index chunk : {Index{1}, Index{13}, Index{64}, kLength}) {
    Matrix out(p.q.rows(), p.q.cols());
    for (Index first = 0; first < kLength; first += chunk) {
      const Interval now{first, std::min(first + chunk, kLength)}, all{0, now.end};
      attend(q.slice(now), k.slice(all), v.slice(all), ls::view(out, kHeads).slice(now), {.executor = pool});
    }
    EXPECT_TRUE(same(out)) << "contiguous, chunks of " << chunk;

    for (const Index page_size : {16, 64, 100}) {
      ls::PagedCache<float> cache(
          {.pages = ls::ceil_div(kLength, page_size), .page_size = page_size, .kv_heads = kKvHeads, .head_dim = kDim});
      const auto sequence = cache.open();
      out.setConstant(-1);
      for (Index first = 0; first < kLength; first += chunk) {
        const Interval now{first, std::min(first + chunk, kLength)};
        ASSERT_EQ(cache.append(sequence, k.slice(now), v.slice(now)), ls::Appended::kDone);
        attend(q.slice(now), cache.view(sequence), ls::view(out, kHeads).slice(now), {.executor = pool});
      }
      EXPECT_TRUE(same(out)) << "pages of " << page_size << ", chunks of " << chunk;
    }
  }
}

// ---- bad input ------------------------------------------------------------------------------------------------------

/// Success when the program ended with 1, nothing on standard output and one line that has all these words in it.
::testing::AssertionResult refused(const Outcome& outcome, const std::vector<std::string>& words) {
  bool good = outcome.status == 1 && outcome.out.empty() && outcome.err.starts_with("story: ") &&
              std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1 && outcome.err.ends_with('\n');
  for (const std::string& word : words) good = good && outcome.err.find(word) != std::string::npos;
  if (good) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "status " << outcome.status << ", output \"" << outcome.out << "\", error \""
                                       << outcome.err << '"';
}

std::string header(const std::array<std::int32_t, 7>& fields) {
  return {reinterpret_cast<const char*>(fields.data()), sizeof fields};
}

TEST(Story, RefusesOptions) {
  LONGSPAN_NEEDS_DATA();
  const std::string text = (*data_folder() / "text" / "tinystories.txt").string();
  EXPECT_TRUE(refused(story({}), {"MODEL"}));
  EXPECT_TRUE(refused(small_story({"--storey"}), {"--storey"}));
  EXPECT_TRUE(refused(small_story({"--tokens", "0"}), {"--tokens", "0", "1"}));
  EXPECT_TRUE(refused(small_story({"--tokens", "-5"}), {"--tokens", "-5", "1"}));
  EXPECT_TRUE(refused(small_story({"--tokens", "many"}), {"--tokens", "many"}));
  EXPECT_TRUE(refused(small_story({"--threads", "0"}), {"threads", "0", "1"}));
  EXPECT_TRUE(refused(small_story({"--temperature", "-0.5"}), {"--temperature", "-0.5"}));
  EXPECT_TRUE(refused(small_story({"--temperature", "nan"}), {"--temperature", "nan"}));
  EXPECT_TRUE(refused(small_story({"--rope", "rubber"}), {"--rope", "rubber", "ntk"}));
  for (const char* factor : {"0", "-1", "nan", "inf"})
    EXPECT_TRUE(refused(small_story({"--rope", "linear", "--factor", factor}), {"factor", factor}));
  EXPECT_TRUE(
      refused(small_story({"--tokens", "3", "--prompt", "a tale of a dog"}), {"--prompt", "expected at most 3"}));
  EXPECT_TRUE(
      refused(small_story({"--nll", text, "--tokens", "99", "--buckets", "1,100"}), {"--buckets", "100", "99"}));
  EXPECT_TRUE(refused(small_story({"--nll", text, "--buckets", "9,5"}), {"--buckets", "5", "10"}));
  EXPECT_TRUE(refused(small_story({"--nll", text, "--buckets", "0,5"}), {"--buckets", "0", "1"}));
  EXPECT_TRUE(refused(small_story({"--nll", text, "--buckets", "5"}), {"--buckets", "1", "2"}));
  EXPECT_TRUE(refused(small_story({"--nll", "no such file"}), {"no such file: could not be opened"}));
  EXPECT_TRUE(refused(small_story({"--nll", "."}), {".: could not be read"}));
}

TEST(Story, RefusesTokensOutsideTheVocabularyAndAFullCache) {
  LONGSPAN_NEEDS_DATA();
  const Model model = small_model();
  Engine engine(model, plain_rope(model), 64, 1);
  for (const int token : {-1, 512}) {
    const int tokens[] = {1, token};
    EXPECT_THROW(engine.read(tokens), std::runtime_error);
  }
  EXPECT_THROW(engine.read(std::vector<int>(65, 1)), std::runtime_error);
  EXPECT_EQ(engine.read(std::vector<int>(64, 1)).rows(), 64);  // refusing has changed nothing
}

TEST(Story, SaysWhatIsWrongWithAModel) {
  LONGSPAN_NEEDS_DATA();
  const std::string whole = read_file(story_file("stories260K.bin")), tokenizer = story_file("tok512.bin");
  const std::string size = std::to_string(whole.size());
  const auto file = [&](const std::string& bytes, const std::vector<std::string>& words) {
    const Temporary model(bytes);
    return refused(story({model.path, tokenizer}), words);
  };
  EXPECT_TRUE(file("", {"got 0", "expected 4"}));
  EXPECT_TRUE(file(whole.substr(0, 27), {"got 3", "expected 4"}));
  EXPECT_TRUE(file(whole.substr(0, 5000), {"got 5000", "expected " + size}));
  EXPECT_TRUE(file(whole + "tail", {"got " + std::to_string(whole.size() + 4), "expected " + size}));
  EXPECT_TRUE(file("#!/bin/sh\necho this is no checkpoint at all\n", {"dim", "got"}));
  EXPECT_TRUE(file(header({64, 172, 5, 8, 4, 512, 0}), {"context", "got 0"}));
  EXPECT_TRUE(file(header({64, 172, 5, 8, 4, 0, 512}), {"vocabulary", "got 0"}));
  EXPECT_TRUE(file(header({64, -1, 5, 8, 4, 512, 512}), {"hidden_dim", "got -1"}));
  EXPECT_TRUE(file(header({60, 172, 5, 8, 4, 512, 512}), {"dim", "got 60", "16"}));
  EXPECT_TRUE(file(header({72, 172, 5, 8, 4, 512, 512}), {"dim", "got 72", "16"}));  // head_dim 9
  EXPECT_TRUE(file(header({64, 172, 5, 8, 3, 512, 512}), {"heads", "got 8", "3"}));
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max(),
                         kLeast = std::numeric_limits<std::int32_t>::min();
  EXPECT_TRUE(file(header({kMost - 1, kMost, kMost, 1, 1, kLeast, kMost}), {"size", "got 28"}));
  EXPECT_TRUE(refused(story({"no such file", tokenizer}), {"no such file: could not be opened"}));
  EXPECT_TRUE(refused(story({".", tokenizer}), {".: could not be read"}));
  EXPECT_TRUE(refused(story({tokenizer, tokenizer}), {"tok512.bin"}));
}

TEST(Story, SaysWhatIsWrongWithATokenizer) {
  LONGSPAN_NEEDS_DATA();
  const std::string whole = read_file(story_file("tok512.bin"));
  const auto file = [&](const std::string& bytes, const std::vector<std::string>& words) {
    const Temporary tokenizer(bytes);
    return refused(story({story_file("stories260K.bin"), tokenizer.path}), words);
  };
  const auto piece = [](float score, std::int32_t length) {
    return std::string(reinterpret_cast<const char*>(&score), 4) +
           std::string(reinterpret_cast<const char*>(&length), 4);
  };
  EXPECT_TRUE(file("", {"got 0", "expected 4"}));
  EXPECT_TRUE(file(whole.substr(0, 4), {"pieces", "got 0", "expected 512"}));
  EXPECT_TRUE(file(whole.substr(0, 6), {"got 2", "expected 4"}));
  EXPECT_TRUE(file(whole.substr(0, whole.size() - 1), {"got 2", "expected 3"}));
  EXPECT_TRUE(file(whole + piece(1, 1) + "x", {"pieces", "got 513", "expected 512"}));
  EXPECT_TRUE(file(whole + piece(1, -7), {"got 0", "expected -7"}));
  EXPECT_TRUE(file(whole + piece(1, 1 << 30) + "x", {"got 1 ", "expected 1073741824"}));
  EXPECT_TRUE(file(whole + piece(NAN, 1) + "x", {"score of piece 512", "got nan"}));
  EXPECT_TRUE(refused(story({story_file("stories260K.bin"), story_file("stories260K.bin")}), {"stories260K.bin"}));
}

/// f() may succeed or throw std::runtime_error, nothing else.
template <class F>
bool survives(F f) {
  try {
    f();
    return true;
  } catch (const std::runtime_error& error) {
    return std::string_view(error.what()).find('\n') == std::string_view::npos;
  }
}

/// Some tokens, whatever the weights.
void read_some(const Model& model) {
  Engine engine(model, plain_rope(model), 8, 1);
  std::mt19937_64 random(1);
  const Matrix logits = engine.logits(engine.read(std::vector<int>{0, 0, 0}));
  for (const double temperature : {0.0, 1.0}) {
    const int token = choose(logits.bottomRows(1), temperature, random);
    ASSERT_TRUE(token >= 0 && token < model.vocabulary);
  }
}

TEST(Story, SurvivesAnyModel) {
  LONGSPAN_NEEDS_DATA();
  const std::string whole = read_file(story_file("stories260K.bin"));
  const auto model = [](const std::string& bytes) {
    const Temporary file(bytes);
    return survives([&] { read_some(load_model(file.path)); });
  };
  constexpr std::uint64_t kSeed = 20240704;
  Random random(kSeed);
  for (int trial = 0; trial < 120; ++trial) {
    const Index length = trial < 40 ? trial : random.between(0, std::ssize(whole) - 1);
    const Temporary file(whole.substr(0, length));
    EXPECT_THROW(load_model(file.path), std::runtime_error) << length << " bytes";
  }
  for (int trial = 0; trial < 300; ++trial) {
    std::string bytes = whole;
    for (Index changes = random.between(1, 4); changes > 0; --changes)
      bytes[random.between(0, 27)] = static_cast<char>(random.between(0, 255));
    EXPECT_TRUE(model(bytes)) << "header, seed " << kSeed << ", trial " << trial;
  }
  for (int trial = 0; trial < 20; ++trial) {
    std::string bytes = whole;
    for (std::size_t at = 28; at < bytes.size(); ++at) bytes[at] = static_cast<char>(random.between(0, 255));
    EXPECT_TRUE(model(bytes)) << "weights, seed " << kSeed << ", trial " << trial;
  }
  for (int trial = 0; trial < 100; ++trial) {  // small numbers, and the size that they ask for or another
    const auto some = [&](Index most) { return static_cast<std::int32_t>(random.between(1, most)); };
    const std::int32_t heads = some(3), kv_heads = some(heads), dim = 2 * heads * some(3), hidden = some(9),
                       layers = some(3), vocabulary = some(9), context = some(9), own = random.chance(0.5);
    const Index kv_dim = dim / heads * kv_heads;
    const Index floats = Index{vocabulary} * dim * (1 + own) + dim + context * (dim / heads) +
                         layers * (2 * dim + 2 * dim * dim + 2 * dim * kv_dim + 3 * hidden * dim);
    std::string bytes = header({dim, hidden, layers, heads, kv_heads, own ? -vocabulary : vocabulary, context});
    for (Index i = 4 * floats + (trial % 4 == 0); i > 0; --i) bytes += static_cast<char>(random.between(0, 255));
    const Temporary file(bytes);
    bool loads = true;
    try {
      read_some(load_model(file.path));
    } catch (const std::runtime_error&) {
      loads = false;
    }
    EXPECT_EQ(loads, trial % 4 != 0 && heads % kv_heads == 0) << "seed " << kSeed << ", trial " << trial;
  }
}

TEST(Story, SurvivesAnyTokenizer) {
  LONGSPAN_NEEDS_DATA();
  const std::string whole = read_file(story_file("tok512.bin"));
  const std::string text = read_file(*data_folder() / "text" / "tinystories.txt").substr(0, 2000) + "\xff\xc3\xa9";
  constexpr std::uint64_t kSeed = 20240705;
  Random random(kSeed);
  for (int trial = 0; trial < 600; ++trial) {
    std::string bytes = whole;
    if (trial % 3 == 0) bytes.resize(random.between(0, std::ssize(whole) - 1));
    if (trial % 3 == 1 || bytes.empty()) bytes.resize(random.between(0, 400), 'a');
    for (Index changes = random.between(1, 1 << random.between(0, 8)); changes > 0 && !bytes.empty(); --changes)
      bytes[random.between(0, std::ssize(bytes) - 1)] = static_cast<char>(random.between(0, 255));
    const Temporary file(bytes);
    for (const Index vocabulary : {512, 40})
      EXPECT_TRUE(survives([&] {
        const Tokenizer tokenizer(file.path, vocabulary);
        for (const int token : tokenizer.encode(text)) {
          ASSERT_LT(token, vocabulary);
          tokenizer.decode(kBeginOfText, token);
        }
      })) << "seed "
          << kSeed << ", trial " << trial;
  }
}

}  // namespace
}  // namespace longspan::testing
