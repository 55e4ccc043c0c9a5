// A small Llama tells a story: longspan inside an engine.
//
//   sh cmake/dev.sh run story MODEL TOKENIZER --prompt "Once upon a time"        tells one
//   sh cmake/dev.sh run story MODEL TOKENIZER --nll TEXTFILE --tokens 8192       measures how well it foresees a text
//
// MODEL and TOKENIZER are files of llama2.c, read by llama2c.hpp. The class Engine is where longspan comes in: rotary
// positions, the paged cache of keys and values, attention.

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <longspan/longspan.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "llama2c.hpp"

namespace {

namespace ls = longspan;
using namespace llama2c;

// ---- the engine -----------------------------------------------------------------------------------------------------

struct Projections {
  Matrix q, k, v;  ///< [tokens, heads · head_dim]
};

/// Queries, keys and values of tokens at `position`, position + 1, …; queries and keys are turned to these positions.
Projections project(const Model& model, const Layer& layer, const Matrix& x, const ls::RopeTable<ls::Adjacent>& angles,
                    Index position) {
  const Matrix normed = rms_norm(x, layer.attention_norm);
  Projections p{normed * layer.wq.transpose(), normed * layer.wk.transpose(), normed * layer.wv.transpose()};
  angles.rotate(ls::view(p.q, model.heads), position);
  angles.rotate(ls::view(p.k, model.kv_heads), position);
  return p;
}

/// A model that reads one sequence, of at most `capacity` tokens.
template <class Element = float>  // of the cache: float, bf16, i8 …
class Engine {
 public:
  Engine(const Model& model, const ls::Rope<ls::Adjacent>& rope, Index capacity, Index threads)
      : model_(model),
        rope_(rope),
        pool_(threads),
        cache_({.pages = ls::ceil_div(capacity, kPageSize),
                .page_size = kPageSize,
                .kv_heads = model.kv_heads,
                .head_dim = model.head_dim(),
                .layers = std::ssize(model.layers)}),
        sequence_(cache_.open()) {}

  /// Reads tokens behind those it has read, a chunk of a prompt or the one token of a decode step: it is all the same.
  /// Returns the last layer's output, [tokens, dim].
  Matrix read(std::span<const int> tokens) {
    Matrix x(std::ssize(tokens), model_.dim);
    for (Index t = 0; t < x.rows(); ++t) {
      const int token = tokens[t];
      require(token >= 0 && token < model_.vocabulary, "token: got ", token, ", expected 0 … ", model_.vocabulary - 1);
      x.row(t) = model_.embedding.row(token);
    }
    const Index position = cache_.length(sequence_);
    const auto angles = rope_.table({position, position + x.rows()});  // once for all layers and heads
    for (Index l = 0; l < std::ssize(model_.layers); ++l) {
      const Layer& layer = model_.layers[l];
      x += attend(l, project(model_, layer, x, angles, position)) * layer.wo.transpose();
      x += feed_forward(layer, x);
    }
    return x;
  }

  /// Of the token after each, [tokens, vocabulary].
  Matrix logits(const Matrix& x) const { return rms_norm(x, model_.final_norm) * model_.classifier().transpose(); }

 private:
  static constexpr Index kPageSize = 64;

  /// Stores keys and values behind the others of the layer, then attends to all of them. Queries stand at the end of
  /// the keys, so a whole prompt, a chunk of it and a single token are this one call, and give the same bits.
  Matrix attend(Index layer, Projections p) {
    const ls::Appended appended =
        cache_.append(sequence_, ls::view(p.k, model_.kv_heads), ls::view(p.v, model_.kv_heads), layer);
    require(appended == ls::Appended::kDone, "the cache is full");
    Matrix out(p.q.rows(), p.q.cols());
    attention_(ls::view(p.q, model_.heads), cache_.view(sequence_, layer), ls::view(out, model_.heads),
               {.executor = pool_});
    return out;
  }

  const Model& model_;
  ls::Rope<ls::Adjacent> rope_;
  ls::ThreadPool pool_;
  ls::PagedCache<Element> cache_;
  ls::SequenceId sequence_;
  decltype(ls::attention(ls::Causal{})) attention_ = ls::attention(ls::Causal{});
};

/// Calls f(first, chunk) for one chunk of the tokens after the other: what a long text needs at once stays small.
template <class F>
void in_chunks(std::span<const int> tokens, F f) {
  constexpr std::size_t kChunk = 256;
  for (std::size_t first = 0; first < tokens.size(); first += kChunk)
    f(static_cast<Index>(first), tokens.subspan(first, std::min(kChunk, tokens.size() - first)));
}

// ---- the program ----------------------------------------------------------------------------------------------------

struct Settings {
  std::string model, tokenizer, prompt, rope = "none";
  std::optional<std::string> text;  ///< to measure
  Index tokens = 256, threads = 1;
  double temperature = 0, factor = 4;
  std::uint64_t seed = 1;
  std::vector<Index> buckets;
};

ls::Rope<ls::Adjacent> make_rope(const Settings& settings, const Model& model) {
  ls::RopeScaling scaling{.rope_theta = 10000, .max_position_embeddings = model.context};
  if (settings.rope != "none") scaling.rope_type = settings.rope, scaling.factor = settings.factor;
  return scaling.rope<ls::Adjacent>(model.head_dim());
}

/// The likeliest token at temperature 0, otherwise one drawn from softmax(logits / temperature).
int choose(const Matrix& logits, double temperature, std::mt19937_64& random) {
  Index likeliest = 0;
  const double most = logits.row(0).maxCoeff(&likeliest);
  if (temperature == 0) return static_cast<int>(likeliest);
  const Eigen::ArrayXd weights = ((logits.row(0).cast<double>().array() - most) / temperature).exp();
  double left = weights.sum() * std::ldexp(static_cast<double>(random() >> 11), -53);  // the same with any library
  for (Index i = 0; i < weights.size(); ++i)
    if ((left -= weights[i]) < 0) return static_cast<int>(i);
  return static_cast<int>(likeliest);
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void report(Index tokens, double start) {
  std::cerr << tokens << " tokens, " << std::lround(static_cast<double>(tokens) / (seconds() - start)) << "/s\n";
}

/// Prints the prompt and what follows it.
void tell(Engine<>& engine, const Tokenizer& tokenizer, const Settings& settings) {
  std::vector<int> unread = tokenizer.encode(settings.prompt);
  const Index prompt = std::ssize(unread);
  require(prompt <= settings.tokens, "--prompt: got ", prompt, " tokens, expected at most ", settings.tokens,
          " (--tokens)");
  for (Index i = 1; i < prompt; ++i) std::cout << tokenizer.decode(unread[i - 1], unread[i]);

  std::mt19937_64 random(settings.seed);
  const double start = seconds();
  Index length = prompt;
  for (; length <= settings.tokens; ++length) {
    Matrix x;
    in_chunks(unread, [&](Index, std::span<const int> chunk) { x = engine.read(chunk); });
    const int next = choose(engine.logits(x.bottomRows(1)), settings.temperature, random);
    if (next == kBeginOfText) break;
    std::cout << tokenizer.decode(unread.back(), next) << std::flush;
    unread = {next};
  }
  std::cout << std::endl;
  report(length - 1, start);
}

/// [i]: −log of the probability of token i after those before it, in nats; 0 for the first.
template <class Element>
std::vector<double> negative_log_likelihoods(Engine<Element>& engine, std::span<const int> tokens) {
  std::vector<double> nll(tokens.size());
  in_chunks(tokens.first(tokens.size() - 1), [&](Index first, std::span<const int> chunk) {
    const Eigen::ArrayXXd logits = engine.logits(engine.read(chunk)).template cast<double>();
    for (Index i = 0; i < logits.rows(); ++i) {
      const Index next = first + i + 1;
      const double most = logits.row(i).maxCoeff();
      nll[next] = most + std::log((logits.row(i) - most).exp().sum()) - logits(i, tokens[next]);
    }
  });
  return nll;
}

/// Prints the mean negative log-likelihood of each bucket of positions.
void measure(const Model& model, const Tokenizer& tokenizer, const Settings& settings) {
  File text(*settings.text);
  std::vector<int> tokens = tokenizer.encode(text.text(text.left));
  if (std::ssize(tokens) > settings.tokens) tokens.resize(settings.tokens);
  const Index length = std::ssize(tokens);
  std::vector<Index> ends = settings.buckets;
  if (ends.empty()) ends = {1, length};
  require(ends.size() >= 2, "--buckets: got ", ends.size(), " number, expected at least 2");
  for (std::size_t b = 0; b < ends.size(); ++b) {
    const Index least = b == 0 ? 1 : ends[b - 1] + 1;
    require(ends[b] >= least && ends[b] <= length, "--buckets: got ", ends[b], ", expected ", least, " … ", length,
            " (ascending, up to --tokens and the length of the text)");
  }

  Engine engine(model, make_rope(settings, model), length, settings.threads);
  const double start = seconds();
  const std::vector<double> nll = negative_log_likelihoods(engine, tokens);
  report(length - 1, start);
  for (std::size_t b = 1; b < ends.size(); ++b) {
    const double sum = std::accumulate(nll.begin() + ends[b - 1], nll.begin() + ends[b], 0.0);
    std::cout << '[' << ends[b - 1] << ',' << ends[b] << ") " << std::fixed << std::setprecision(4)
              << sum / static_cast<double>(ends[b] - ends[b - 1]) << '\n';
  }
}

void run(const Settings& settings) {
  require(settings.temperature >= 0 && std::isfinite(settings.temperature), "--temperature: got ", settings.temperature,
          ", expected finite and >= 0");
  const Model model = load_model(settings.model);
  const Tokenizer tokenizer(settings.tokenizer, model.vocabulary);
  if (settings.text) return measure(model, tokenizer, settings);
  Engine engine(model, make_rope(settings, model), settings.tokens, settings.threads);
  tell(engine, tokenizer, settings);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("A llama2.c checkpoint tells a story, or says how well it foresees a text.", "story");
  app.option_defaults()->always_capture_default();
  app.add_option("MODEL", settings.model, "checkpoint, such as stories15M.bin")->required();
  app.add_option("TOKENIZER", settings.tokenizer, "its tokenizer.bin")->required();
  app.add_option("--prompt", settings.prompt, "how the story begins");
  app.add_option("--nll", settings.text, "no story, but the negative log-likelihood per token of this file, in nats");
  app.add_option("--buckets", settings.buckets, "positions at which a new mean of these begins")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->default_str("all");
  app.add_option("--tokens", settings.tokens, "how many at most, the prompt's included")
      ->check(CLI::Range(Index{1}, ls::kRopeEnd));
  app.add_option("--temperature", settings.temperature, "0: always the likeliest token");
  app.add_option("--seed", settings.seed, "of the draws at other temperatures");
  app.add_option("--rope", settings.rope, "how to reach beyond the context of the training")
      ->check(CLI::IsMember({"none", "linear", "ntk", "by_parts", "yarn"}));
  app.add_option("--factor", settings.factor, "by how much");
  app.add_option("--threads", settings.threads, "for attention");
  try {
    app.parse(argc, argv);
    run(settings);
    return 0;
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const std::bad_alloc&) {
    std::cerr << "story: not enough memory for " << settings.tokens << " tokens\n";
  } catch (const std::exception& error) {
    std::cerr << "story: " << error.what() << '\n';
  }
  return 1;
}
