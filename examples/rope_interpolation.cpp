// How a rotary model reaches beyond the length that it was trained on, in five experiments. Read from top to bottom.
//
//   sh cmake/dev.sh run rope_interpolation --out FOLDER                             (a), (b), (d): no model needed
//   sh cmake/dev.sh run rope_interpolation MODEL TOKENIZER TEXT --out FOLDER        all five
//
// MODEL and TOKENIZER are files of llama2.c; a small pair (1 MB) is https://huggingface.co/karpathy/tinyllamas, folder
// stories260K. Writes FOLDER/report.md and FOLDER/*.svg (by gnuplot). --config config.json: (a) and (b) for the rotary
// embedding of that Hugging Face model, too.

#include <CLI/CLI.hpp>
#include <Eigen/Dense>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <longspan/longspan.hpp>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "figures.hpp"
#include "llama2c.hpp"
#if __has_include(<nlohmann/json.hpp>)
#include "hf_config.hpp"
#endif

namespace {

namespace ls = longspan;
using namespace llama2c;
using figures::Figure;
using figures::Line;
using figures::Panel;

struct Settings {
  std::string model, tokenizer, text, out = "rope_interpolation", config;
  Index tokens = 8192, threads = 2;
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
void progress(const std::string& what) {
  static const double start = seconds();
  std::cerr << std::fixed << std::setprecision(1) << std::setw(6) << seconds() - start << " s  " << what << std::endl;
}
template <class T>
std::string fixed(T x, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << x;
  return text.str();
}

// ---- the scalings ---------------------------------------------------------------------------------------------------
// What they have in common: pair i of a head is turned by position × frequency_i. Each scaling is another list of
// frequencies, for the same weights. See docs/positions.md for formulas and papers.

struct Scaling {
  std::string name;
  ls::AnyFrequencies policy;
};

/// All of one factor, for a model trained on `trained` tokens. (Dynamic NTK is NTK by a factor that grows with the
/// text.)
std::vector<Scaling> scalings(double factor, Index trained) {
  return {{"none", ls::Plain{}},
          {"linear", ls::Linear{factor}},
          {"ntk", ls::Ntk{factor}},
          {"by parts", ls::ByParts{factor, trained}},
          {"yarn", ls::Yarn{factor, trained}},
          {"llama 3", ls::Llama3{factor, trained}}};
}

// ---- (a) wavelengths ------------------------------------------------------------------------------------------------
// A pair whose wavelength is longer than the trained length never finished a turn in training: beyond it come angles
// that no weight has seen. A pair of short wavelength has seen all angles many times, and tells near tokens apart.

Figure wavelengths(Index dim, double base, Index trained, double factor, std::ostream& report) {
  Panel absolute{.title = "Wavelength of each pair", .x = "pair", .y = "tokens per turn", .log_y = true};
  Panel relative{.title = "What a scaling of " + fixed(factor, 0) + " does to it",
                 .x = "pair",
                 .y = "longer by a factor of",
                 .log_y = true,
                 .low = 0.9,
                 .high = 1.1 * factor};
  const std::vector<double> plain = ls::Plain{}.frequencies(dim, base);
  Line length{"trained length", {}};
  for (std::size_t i = 0; i < plain.size(); ++i)
    length.points.push_back({static_cast<double>(i), static_cast<double>(trained)});
  report << "## (a) Wavelengths\n\nA head of " << dim << ", base " << fixed(base, 0) << ", trained on " << trained
         << " tokens, stretched by " << fixed(factor, 0)
         << ". Pairs left of the trained length have seen all their angles; those right of it meet new ones. How many "
            "of the "
         << plain.size() << " pairs meet angles in a text of " << fixed(factor * static_cast<double>(trained), 0)
         << " tokens that training never showed, and how much slower the fastest pair became:\n\n"
         << "| scaling | pairs with new angles | fastest pair slower by | slowest by |\n|:--|--:|--:|--:|\n";
  for (const Scaling& s : scalings(factor, trained)) {
    const std::vector<double> f = s.policy.frequencies(dim, base);
    Line wave{s.name, {}}, longer{s.name, {}};
    int unseen = 0;
    for (std::size_t i = 0; i < f.size(); ++i) {
      const double turn = 2 * std::numbers::pi, longest = factor * static_cast<double>(trained) * f[i];
      wave.points.push_back({static_cast<double>(i), turn / f[i]});
      longer.points.push_back({static_cast<double>(i), plain[i] / f[i]});
      unseen +=
          longest > 1.001 * static_cast<double>(trained) * plain[i] && static_cast<double>(trained) * plain[i] < turn;
    }
    absolute.lines.push_back(wave);
    relative.lines.push_back(longer);
    report << "| " << s.name << " | " << unseen << " | " << fixed(plain[0] / f[0], 2) << " | "
           << fixed(plain.back() / f.back(), 2) << " |\n";
  }
  absolute.lines.push_back(length);
  report << "\n![wavelengths](wavelengths.svg)\n\n";
  return {"wavelengths.svg", {absolute, relative}};
}

// ---- (b) score against distance -------------------------------------------------------------------------------------
// The score of a query and a key is a sum of cosines of distance × frequency_i; weights are learned so that it is
// moderate at every distance that occurs. Nothing holds it there beyond: here coefficients fitted to harmless scores
// inside the trained length (Chen et al. 2023, figure 2), then evaluated outside, and with each scaling.

Figure scores(Index dim, double base, Index trained, double factor, std::ostream& report) {
  const Index half = dim / 2;
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal;
  const std::vector<double> plain = ls::Plain{}.frequencies(dim, base);
  const auto basis = [&](double distance, const std::vector<double>& f) {
    Eigen::RowVectorXd row(2 * half);
    for (Index i = 0; i < half; ++i) {
      const double angle = distance * f[static_cast<std::size_t>(i)];
      row[i] = std::cos(angle), row[half + i] = std::sin(angle);
    }
    return row;
  };
  const Index samples = 2 * dim;
  Eigen::MatrixXd a(samples, dim);
  Eigen::VectorXd wanted(samples);
  for (Index s = 0; s < samples; ++s) {
    a.row(s) = basis(static_cast<double>(s) * static_cast<double>(trained) / static_cast<double>(samples), plain);
    wanted[s] = std::clamp(normal(random) / 2, -1.0, 1.0);
  }
  const Eigen::MatrixXd normal_equations = a.transpose() * a + 1e-4 * Eigen::MatrixXd::Identity(dim, dim);
  const Eigen::VectorXd coefficients = normal_equations.ldlt().solve(a.transpose() * wanted);  // a slight weight decay

  Panel far{.title = "Score, with coefficients fitted to [-1, 1] inside",
            .x = "distance (tokens)",
            .y = "|score|",
            .log_y = true,
            .low = 1e-2,
            .high = 0,
            .marks = {static_cast<double>(trained)},
            .mark_label = "trained"};
  Panel near{.title = "Likeness of a token to itself, near by",
             .x = "distance (tokens)",
             .y = "mean of cos(distance * frequency)",
             .low = 0.4,
             .high = 1.05};
  report << "## (b) Score against distance\n\nLargest |score| inside the trained length and beyond it (up to "
         << fixed(factor, 0) << " times), and how much a score falls from distance 0 to 1, which is what tells "
         << "neighbours apart:\n\n| scaling | inside | beyond | fall over one token |\n|:--|--:|--:|--:|\n";
  for (const Scaling& s : scalings(factor, trained)) {
    const std::vector<double> f = s.policy.frequencies(dim, base);
    const double m2 = s.policy.attention_factor() * s.policy.attention_factor();
    Line score{s.name, {}}, like{s.name, {}};
    double inside = 0, beyond = 0, peak = 0;
    const double end = factor * static_cast<double>(trained), window = end / 200;
    double next = window;
    for (double d = 0; d <= end; d += static_cast<double>(trained) / 512) {
      const double value = std::abs(basis(d, f).dot(coefficients) * m2);
      (d < static_cast<double>(trained) ? inside : beyond) =
          std::max(d < static_cast<double>(trained) ? inside : beyond, value);
      peak = std::max(peak, value);
      if (d >= next) score.points.push_back({next, peak}), next += window, peak = 0;
    }
    const auto likeness = [&](double d) {
      double sum = 0;
      for (const double x : f) sum += std::cos(d * x);
      return sum / static_cast<double>(half);
    };
    for (int d = 0; d <= 64; ++d) like.points.push_back({d, likeness(d)});
    far.lines.push_back(score), near.lines.push_back(like);
    report << "| " << s.name << " | " << fixed(inside, 1) << " | " << fixed(beyond, 1) << " | "
           << fixed(1 - likeness(1), 4) << " |\n";
  }
  report << "\nWithout a scaling the sum is anything outside (the blow-up of extrapolation); dividing all positions "
            "makes it harmless, but takes most of the difference between neighbours (the loss of resolution). The "
            "others keep "
            "that difference; pairs of wavelengths around the trained length still come to new angles, as (a) counts "
            "them, so "
            "they want a factor somewhat larger than the text, or training.\n\n"
            "![scores](scores.svg)\n\n";
  far.low = far.high = 0;
  return {"scores.svg", {far, near}};
}

// ---- (c) a real model -----------------------------------------------------------------------------------------------

/// Reads queries and keys that are not rotated: what differs from method to method is only this function.
using Attend = std::function<void(ls::QueryTensor, const ls::PagedView<float>&, ls::OutputTensor, const ls::Options&)>;

/// A way to read a long text: `make` says how to attend when the sequence has come to `length` tokens.
struct Method {
  std::string name;
  double factor;
  std::function<Attend(Index length)> make;
  Index chunk = 256;  ///< tokens read at once; where frequencies depend on the length, what it is rounded up to
};

constexpr double kBase = 10000;

std::vector<Method> methods(Index head_dim, Index trained) {
  std::vector<Method> all;
  const Index everything = ls::kPositionEnd - 1;
  const auto attend_by = [=](const auto& policy, Index window, Index sinks) {
    return Attend(ls::rotary_attention(ls::Rope<ls::Adjacent>(head_dim, kBase, policy), ls::Consecutive{},
                                       ls::Causal{} & (ls::Window{window} | ls::Sinks{sinks})));
  };
  const auto add = [&](const std::string& name, double factor, const ls::AnyFrequencies& policy) {
    all.push_back({name, factor, [=](Index) { return attend_by(policy, everything, 0); }});
  };
  const auto pairs = static_cast<std::size_t>(head_dim / 2);
  add("none", 1, ls::Plain{});
  for (const double s : {2.0, 4.0, 8.0}) add("linear", s, ls::Linear{s});
  for (const double s : {2.0, 4.0, 8.0, 16.0}) add("ntk", s, ls::Ntk{s});
  for (const double s : {2.0, 4.0, 8.0, 16.0}) add("by parts", s, ls::ByParts{s, trained});
  for (const double s : {2.0, 4.0, 8.0, 16.0}) add("yarn", s, ls::Yarn{s, trained});
  for (const double s : {4.0, 8.0}) add("llama 3", s, ls::Llama3{s, trained});
  // Frequencies that depend on the length: the cache is not touched when they change.
  for (const double s : {1.0, 2.0})
    all.push_back({"dynamic ntk", s,
                   [=](Index length) {
                     return attend_by(ls::DynamicNtk{s, trained, length}, everything, 0);
                   },
                   64});
  for (const double each : {1.0, 8.0})  // the search for factors is what LongRoPE is about; here all are the same
    all.push_back({each == 1 ? "longrope (1s)" : "longrope (8s)", 8,
                   [=](Index length) {
                     return attend_by(ls::LongRope{std::vector<double>(pairs, 1), std::vector<double>(pairs, each),
                                                   trained, 8, length},
                                      everything, 0);
                   },
                   64});
  // No other frequencies, but other positions.
  const ls::Rope<ls::Adjacent> plain(head_dim, kBase);
  for (const Index group : {4, 16})
    all.push_back({"self-extend", static_cast<double>(group), [=](Index) {
                     return Attend(ls::rotary_attention(plain, ls::SelfExtend{group, trained / 4}));
                   }});
  all.push_back({"rerope", 1, [=](Index) { return Attend(ls::rotary_attention(plain, ls::ReRope{trained / 2})); }});
  all.push_back({"dual chunk", 1, [=](Index) {
                   return Attend(ls::rotary_attention(plain, ls::DualChunk{trained * 3 / 4, trained}));
                 }});
  // Not to look so far.
  all.push_back({"window", 1, [=](Index) { return attend_by(ls::Plain{}, trained, 0); }});
  all.push_back({"window + 4 sinks", 1, [=](Index) { return attend_by(ls::Plain{}, trained - 4, 4); }});
  return all;
}

/// −log of the probability of each token after those before it; 0 for the first. Keys are cached as they are made.
std::vector<double> negative_log_likelihoods(const Model& model, const std::vector<int>& tokens, const Method& method,
                                             ls::ThreadPool& pool) {
  const Index length = std::ssize(tokens) - 1, page = 64;
  ls::PagedCache<float> cache({.pages = ls::ceil_div(length, page),
                               .page_size = page,
                               .kv_heads = model.kv_heads,
                               .head_dim = model.head_dim(),
                               .layers = std::ssize(model.layers)});
  const ls::SequenceId text = cache.open();
  std::vector<double> nll(tokens.size());
  for (Index first = 0; first < length; first += method.chunk) {
    const Index end = std::min(first + method.chunk, length);
    const Attend attend = method.make(end);
    Matrix x(end - first, model.dim);
    for (Index t = 0; t < x.rows(); ++t) x.row(t) = model.embedding.row(tokens[static_cast<std::size_t>(first + t)]);
    for (Index l = 0; l < std::ssize(model.layers); ++l) {
      const Layer& layer = model.layers[static_cast<std::size_t>(l)];
      const Matrix normed = rms_norm(x, layer.attention_norm);
      Matrix q = normed * layer.wq.transpose(), k = normed * layer.wk.transpose(), v = normed * layer.wv.transpose();
      require(cache.append(text, ls::view(k, model.kv_heads), ls::view(v, model.kv_heads), l) == ls::Appended::kDone,
              "the cache is full");
      Matrix out(q.rows(), q.cols());
      attend(ls::view(q, model.heads), cache.view(text, l), ls::view(out, model.heads), {.executor = pool});
      x += out * layer.wo.transpose();
      x += feed_forward(layer, x);
    }
    const Eigen::ArrayXXd logits = (rms_norm(x, model.final_norm) * model.classifier().transpose()).cast<double>();
    for (Index t = 0; t < logits.rows(); ++t) {
      const auto next = static_cast<std::size_t>(first + t + 1);
      const double most = logits.row(t).maxCoeff();
      nll[next] = most + std::log((logits.row(t) - most).exp().sum()) - logits(t, tokens[next]);
    }
  }
  return nll;
}

struct Measured {
  std::string name;
  double factor;
  std::vector<double> means;  ///< of each bucket
};

std::string full_name(const Measured& m) {
  return m.factor == 1 && m.name != "dynamic ntk" ? m.name : m.name + " " + fixed(m.factor, 0);
}

Figure model_nll(const Settings& settings, const Model& model, std::ostream& report, std::vector<Index>& ends,
                 std::vector<Measured>& rows) {
  const Tokenizer tokenizer(settings.tokenizer, model.vocabulary);
  File text(settings.text);
  std::vector<int> tokens = tokenizer.encode(text.text(text.left));
  if (std::ssize(tokens) > settings.tokens) tokens.resize(static_cast<std::size_t>(settings.tokens));
  for (ends = {1, model.context}; ends.back() < std::ssize(tokens);)
    ends.push_back(std::min<Index>(2 * ends.back(), std::ssize(tokens)));
  ls::ThreadPool pool(settings.threads);

  Panel panel{.title = "Mean NLL by position, none of them trained",
              .x = "position (tokens, end of the bucket)",
              .y = "nats per token",
              .log_x = true,
              .marks = {static_cast<double>(model.context)},
              .mark_label = "trained"};
  report
      << "## (c) A real model\n\nMean negative log-likelihood (nats per token) of the first " << tokens.size()
      << " tokens of " << std::filesystem::path(settings.text).filename().string()
      << " by position, read in one pass. The model was trained on " << model.context
      << " tokens; nothing is trained here. `dynamic ntk` and `longrope` renew their frequencies every 64 tokens, over "
         "keys that are cached un-rotated.\n\n| method | factor |";
  for (std::size_t b = 1; b < ends.size(); ++b) report << " [" << ends[b - 1] << ", " << ends[b] << ") |";
  report << "\n|:--|--:|";
  for (std::size_t b = 1; b < ends.size(); ++b) report << "--:|";
  report << "\n";
  for (const Method& method : methods(model.head_dim(), model.context)) {
    const std::vector<double> nll = negative_log_likelihoods(model, tokens, method, pool);
    Measured row{method.name, method.factor, {}};
    Line line{full_name(row), {}};
    report << "| " << method.name << " | " << fixed(method.factor, 0) << " |";
    for (std::size_t b = 1; b < ends.size(); ++b) {
      double sum = 0;
      for (Index i = ends[b - 1]; i < ends[b]; ++i) sum += nll[static_cast<std::size_t>(i)];
      row.means.push_back(sum / static_cast<double>(ends[b] - ends[b - 1]));
      line.points.push_back({static_cast<double>(ends[b]), row.means.back()});
      report << " " << fixed(row.means.back(), 4) << " |";
    }
    report << "\n";
    progress("(c) " + line.label + ": " + fixed(row.means.back(), 3) + " nats per token in the last bucket");
    static const std::vector<std::string> shown{"none",   "linear 4",   "ntk 4",         "ntk 8",
                                                "yarn 4", "yarn 8",     "dynamic ntk 2", "self-extend 16",
                                                "rerope", "dual chunk", "window",        "window + 4 sinks"};
    if (std::find(shown.begin(), shown.end(), line.label) != shown.end()) panel.lines.push_back(line);
    rows.push_back(row);
  }
  report
      << "\n`window + 4 sinks` keeps true positions, so that the sinks come to distances that the model does not know: "
         "StreamingLLM therefore gives tokens their positions in the cache (Rope's rerotate). `longrope` with all "
         "factors 1 is `none` with sharper scores, with all 8 it is `linear` from the trained length on: its factors "
         "have to be searched for.\n\n![NLL by position](nll.svg)\n\n";
  return {"nll.svg", {panel}};
}

// ---- (d) retrieval without a model ----------------------------------------------------------------------------------
// A passkey stands somewhere in a long text: "… marker key … marker ?". Two heads that are built by hand find it, as
// models do (Olsson et al. 2022). The first looks one token back, so that each token knows what stood before it: its
// query and key live in the fast pairs. The second looks for the token that stood behind the same marker: its content
// lives in the pairs that turned by less than a radian in training, as only these leave a content alone. The first
// dies of interpolation, the second of extrapolation.

/// Which share of passkeys in a text of `length` tokens is found.
double retrieval(const ls::AnyFrequencies& policy, Index trained, Index length, ls::ThreadPool& pool) {
  constexpr Index kDim = 128, kHalf = kDim / 2, kWords = 64, kNeedles = 32;
  const std::vector<double> plain = ls::Plain{}.frequencies(kDim, kBase);
  Index slow = 0;  // the first slow pair
  while (slow < kHalf && plain[static_cast<std::size_t>(slow)] * static_cast<double>(trained) > 1) ++slow;
  const ls::Rope<ls::Adjacent> rope(kDim, kBase, policy);
  std::mt19937_64 random(11);
  std::normal_distribution<float> normal;
  const auto content = [&] {  // a unit vector in the slow pairs
    Eigen::RowVectorXf c = Eigen::RowVectorXf::Zero(kDim);
    for (Index d = 2 * slow; d < kDim; ++d) c[d] = normal(random);
    return Eigen::RowVectorXf(c.normalized());
  };
  Matrix words(kWords + kNeedles, kDim);  // the last ones are markers
  for (Index w = 0; w < words.rows(); ++w) words.row(w) = content();
  std::vector<Index> text(static_cast<std::size_t>(length)), answers;
  for (Index& word : text) word = static_cast<Index>(random() % kWords);
  for (Index n = 0; n < kNeedles; ++n) {  // spread over the text
    const Index at = (length - 2) * (2 * n + 1) / (2 * kNeedles);
    text[static_cast<std::size_t>(at)] = kWords + n;
    answers.push_back(text[static_cast<std::size_t>(at + 1)]);
  }
  Matrix meaning(length, kDim), back_q = Matrix::Zero(length, kDim), back_k = back_q, before(length, kDim);
  for (Index t = 0; t < length; ++t) meaning.row(t) = words.row(text[static_cast<std::size_t>(t)]);

  // Head 1. Fast pairs: query (1, 0) turned one token back, key (1, 0): the score is a sum of cos((distance − 1) · f).
  for (Index i = 0; i < slow; ++i) {
    const auto f = static_cast<float>(plain[static_cast<std::size_t>(i)]);  // as it was learned
    back_q.col(2 * i).setConstant(std::cos(f)), back_q.col(2 * i + 1).setConstant(-std::sin(f));
    back_k.col(2 * i).setConstant(1);
  }
  const auto head = [&](const auto& mask, Matrix& q, Matrix& k, Matrix& v, Matrix& out, float scale, Index first) {
    const auto attend = ls::rotary_attention(rope, ls::Consecutive{}, mask);
    attend(ls::view(q, 1), ls::view(std::as_const(k), 1), ls::view(std::as_const(v), 1), ls::view(out, 1),
           {.executor = pool, .scale = scale, .first_query = first});
  };
  const ls::Window near{256};  // all that matters to it
  head(near, back_q, back_k, meaning, before, 1.f, 0);

  // Head 2, at the end of the text: each marker is asked for; keys are what stood before each token, values its word.
  Matrix question = words.bottomRows(kNeedles), found(kNeedles, kDim);
  head(ls::Window{ls::kPositionEnd - 1}, question, before, meaning, found, 60.f, length);
  double right = 0;
  for (Index n = 0; n < kNeedles; ++n) {
    Index best = 0;
    (words.topRows(kWords) * found.row(n).transpose()).maxCoeff(&best);
    right += best == answers[static_cast<std::size_t>(n)];
  }
  return right / kNeedles;
}

Figure passkeys(Index threads, std::ostream& report) {
  const Index trained = 512;
  ls::ThreadPool pool(threads);
  Panel panel{.title = "Passkeys found by two heads built by hand, trained length 512",
              .x = "length of the text (tokens)",
              .y = "share found",
              .log_x = true,
              .low = 0,
              .high = 1.05,
              .marks = {512},
              .mark_label = "trained"};
  const std::vector<Index> lengths{256, 512, 1024, 2048, 4096, 8192};
  report << "## (d) Retrieval\n\nShare of 32 passkeys found by a synthetic induction circuit (one head that looks one "
            "token back by fast pairs, one that finds a content by slow pairs); scalings by 16.\n\n| scaling |";
  for (const Index n : lengths) report << " " << n << " |";
  report << "\n|:--|--:|--:|--:|--:|--:|--:|\n";
  std::vector<Scaling> all = scalings(16, trained);
  all.push_back({"dynamic ntk", ls::Plain{}});
  for (const Scaling& s : all) {
    Line line{s.name, {}};
    report << "| " << s.name << " |";
    for (const Index n : lengths) {
      const bool grows = s.name == "dynamic ntk";
      const double share =
          retrieval(grows ? ls::AnyFrequencies(ls::DynamicNtk{1, trained, n}) : s.policy, trained, n, pool);
      line.points.push_back({static_cast<double>(n), share});
      report << " " << fixed(100 * share, 0) << "% |";
    }
    report << "\n";
    progress("(d) " + s.name);
    panel.lines.push_back(line);
  }
  report << "\n![passkeys](retrieval.svg)\n\n";
  return {"retrieval.svg", {panel}};
}

// ---- (e) what to pick -----------------------------------------------------------------------------------------------

/// For a text of each length: the methods with the least mean over all of it.
void recommend(const std::vector<Index>& ends, const std::vector<Measured>& rows, std::ostream& report) {
  report
      << "## (e) What to pick\n\nBy (c), for texts up to each length: the least mean NLL over the whole text, of the "
         "scalings that see all of it, and of all methods.\n\n| text up to | scaling | NLL | any method | NLL | none "
         "|\n"
         "|--:|:--|--:|:--|--:|--:|\n";
  for (std::size_t b = 0; b + 1 < ends.size(); ++b) {
    const auto mean = [&](const Measured& m) {
      double sum = 0;
      for (std::size_t i = 0; i <= b; ++i) sum += m.means[i] * static_cast<double>(ends[i + 1] - ends[i]);
      return sum / static_cast<double>(ends[b + 1] - ends[0]);
    };
    const auto least = [&](bool any) {
      const Measured* best = &rows[0];
      for (const Measured& m : rows)
        if ((any || !m.name.starts_with("window")) && mean(m) < mean(*best)) best = &m;
      return best;
    };
    report << "| " << ends[b + 1] << " | " << full_name(*least(false)) << " | " << fixed(mean(*least(false)), 3)
           << " | " << full_name(*least(true)) << " | " << fixed(mean(*least(true)), 3) << " | "
           << fixed(mean(rows[0]), 3) << " |\n";
  }
  report
      << "\nNone of these was trained, and this is one small model with pairs of four wavelengths: measure yours. With "
         "training, YaRN or LongRoPE; where the text is of any length and the far past may be forgotten, a window.\n";
}

void run(const Settings& settings) {
  std::filesystem::create_directories(settings.out);
  std::ostringstream report;
  std::vector<Figure> all;
  report << "# Beyond the trained length\n\n";
  progress("(a) wavelengths");
  all.push_back(wavelengths(128, kBase, 4096, 8, report));
  if (!settings.config.empty()) {
#if __has_include(<nlohmann/json.hpp>)
    const hf::RopeConfig config = hf::read_config(settings.config);
    const auto rope = config.rope.rope<ls::HalfSplit>(config.head_dim, config.rope.max_position_embeddings);
    report << "`" << settings.config << "` (" << config.rope.rope_type << "): attention factor "
           << rope.attention_factor() << ", wavelengths";
    for (const double f : rope.inverse_frequencies()) report << " " << fixed(2 * std::numbers::pi / f, 1);
    report << "\n\n";
#else
    throw std::runtime_error("--config: built without nlohmann's JSON library");
#endif
  }
  progress("(b) scores");
  all.push_back(scores(128, kBase, 2048, 4, report));
  std::vector<Index> ends;
  std::vector<Measured> rows;
  if (!settings.model.empty()) {
    const Model model = load_model(settings.model);
    all.push_back(model_nll(settings, model, report, ends, rows));
  } else {
    report << "## (c) A real model\n\nNot run: no checkpoint was given. A small one (1 MB) and its tokenizer are at "
              "https://huggingface.co/karpathy/tinyllamas, folder stories260K (tok512.bin): give both and a text.\n\n";
  }
  all.push_back(passkeys(settings.threads, report));
  if (!rows.empty()) recommend(ends, rows, report);
  std::ofstream(settings.out + "/report.md") << report.str();
  if (!figures::draw(all, settings.out))
    std::cerr << "gnuplot could not draw: install it and run `gnuplot " << settings.out << "/figures.gnuplot`\n";
  std::cout << report.str();
  progress("wrote " + settings.out + "/report.md");
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("How a rotary model reaches beyond its trained length: a lesson.", "rope_interpolation");
  app.option_defaults()->always_capture_default();
  auto* model = app.add_option("MODEL", settings.model, "llama2.c checkpoint, such as stories260K.bin");
  auto* tokenizer = app.add_option("TOKENIZER", settings.tokenizer, "its tokenizer.bin");
  auto* text = app.add_option("TEXT", settings.text, "a text to foresee");
  model->needs(tokenizer)->needs(text);
  app.add_option("--out", settings.out, "folder of the report and its plots");
  app.add_option("--tokens", settings.tokens, "how many of the text at most")
      ->check(CLI::Range(Index{600}, Index{1} << 20));
  app.add_option("--threads", settings.threads, "for attention")->check(CLI::Range(1, 1024));
  app.add_option("--config", settings.config, "a Hugging Face config.json, whose rotary embedding is described in (a)");
  try {
    app.parse(argc, argv);
    run(settings);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::cerr << "rope_interpolation: " << error.what() << '\n';
  }
  return 1;
}
