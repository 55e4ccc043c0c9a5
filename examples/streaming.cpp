// A text without end through a small Llama: the first tokens ("sinks") and the last ones stay in the cache, all others
// are evicted, and positions are those inside the cache, so that the model never sees one that it was not trained on.
// Against it: everything kept (dense), beyond the trained length; and a window that lets the sinks go, too.
//
//   sh cmake/dev.sh run streaming MODEL TOKENIZER TEXT --plot streaming.gnuplot && gnuplot streaming.gnuplot
//
// MODEL and TOKENIZER are files of llama2.c, read by llama2c.hpp; TEXT is any text. Prints the negative log-likelihood
// per token for each bucket of positions, and the pages that each took. (A model as small as stories260K has no use for
// sinks: it does as well without; by the paper large ones break down.) Xiao et al., "Efficient Streaming Language
// Models with Attention Sinks" (arXiv 2309.17453), figure 3.

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <longspan/longspan.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "llama2c.hpp"

namespace {

namespace ls = longspan;
using namespace llama2c;

constexpr Index kPageSize = 64, kChunk = 256;

struct Settings {
  std::string model, tokenizer, text;
  std::optional<std::string> plot;
  Index tokens = 20000, sinks = 4, recent = 508, bucket = 1000, threads = 1;
};

/// A model that reads one sequence and keeps in its cache what a policy says, or everything. Keys are stored without
/// positions and rotated as they are read.
template <class Attend>
class Reader {
 public:
  Reader(const Model& model, Attend attend, std::optional<ls::StreamingLlm> keep, Index pages, Index threads)
      : model_(model),
        attend_(std::move(attend)),
        keep_(keep),
        pool_(threads),
        cache_({.pages = pages,
                .page_size = kPageSize,
                .kv_heads = model.kv_heads,
                .head_dim = model.head_dim(),
                .layers = std::ssize(model.layers)}),
        sequence_(cache_.open()) {}

  /// Of the tokens after each of these, [tokens, vocabulary].
  Matrix read(std::span<const int> tokens) {
    Matrix x(std::ssize(tokens), model_.dim);
    for (Index t = 0; t < x.rows(); ++t) x.row(t) = model_.embedding.row(tokens[t]);
    for (Index l = 0; l < std::ssize(model_.layers); ++l) {
      const Layer& layer = model_.layers[l];
      const Matrix normed = rms_norm(x, layer.attention_norm);
      const Matrix q = normed * layer.wq.transpose(), k = normed * layer.wk.transpose(),
                   v = normed * layer.wv.transpose();
      const ls::Appended appended =
          cache_.append(sequence_, ls::view(k, model_.kv_heads), ls::view(v, model_.kv_heads), l);
      require(appended == ls::Appended::kDone, "the cache is full");
      Matrix out(q.rows(), q.cols());
      attend_(ls::view(q, model_.heads), cache_.view(sequence_, l), ls::view(out, model_.heads), {.executor = pool_});
      x += out * layer.wo.transpose();
      x += feed_forward(layer, x);
    }
    pages_ = std::max(pages_, cache_.shape().pages - cache_.free_pages());
    if (keep_) ls::evict_pages(cache_, sequence_, *keep_);
    return rms_norm(x, model_.final_norm) * model_.classifier().transpose();
  }
  /// The most that were used at a time, and their bytes.
  Index pages() const { return pages_; }
  Index bytes() const { return pages_ * (cache_.bytes(cache_.shape()) / cache_.shape().pages); }

 private:
  const Model& model_;
  Attend attend_;
  std::optional<ls::StreamingLlm> keep_;
  ls::ThreadPool pool_;
  ls::PagedCache<float> cache_;
  ls::SequenceId sequence_;
  Index pages_ = 0;
};

struct Line {
  std::string label;
  std::vector<double> nll;  ///< [buckets], mean of each, in nats per token
  Index pages, bytes;
};

/// How well a reader foresees the tokens.
template <class R>
Line measure(const std::string& label, R reader, std::span<const int> tokens, Index bucket) {
  const auto start = std::chrono::steady_clock::now();
  const Index last = std::ssize(tokens) - 1;  // nothing comes after it
  std::vector<double> sum(static_cast<std::size_t>(last / bucket + 1)), count(sum.size());
  for (Index first = 0; first < last; first += kChunk) {
    const Index size = std::min(kChunk, last - first);
    const Eigen::ArrayXXd logits = reader.read(tokens.subspan(first, size)).template cast<double>();
    for (Index i = 0; i < size; ++i) {
      const double most = logits.row(i).maxCoeff();
      const auto b = static_cast<std::size_t>((first + i + 1) / bucket);
      sum[b] += most + std::log((logits.row(i) - most).exp().sum()) - logits(i, tokens[first + i + 1]);
      count[b] += 1;
    }
    if (first / kChunk % 8 == 0)
      std::cerr << '\r' << label << ": " << first << " of " << last << " tokens" << std::flush;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cerr << '\r' << label << ": " << last << " tokens in " << std::fixed << std::setprecision(1) << seconds.count()
            << " s      \n";
  for (std::size_t b = 0; b < sum.size(); ++b) sum[b] /= count[b];
  return {label, std::move(sum), reader.pages(), reader.bytes()};
}

void print_table(const std::vector<Line>& lines, Index bucket) {
  std::cout << "nats per token, from";
  for (const Line& l : lines) std::cout << "  " << l.label;
  std::cout << std::fixed << std::setprecision(4) << '\n';
  for (std::size_t b = 0; b < lines[0].nll.size(); ++b) {
    std::cout << std::setw(20) << static_cast<Index>(b) * bucket;
    for (const Line& l : lines) std::cout << "  " << std::setw(static_cast<int>(l.label.size())) << l.nll[b];
    std::cout << '\n';
  }
  for (const Line& l : lines) std::cout << l.label << ": " << l.pages << " pages, " << l.bytes / 1024 << " KiB\n";
}

/// A script for gnuplot, which draws `path` with .svg at its end.
void write_plot(const std::string& path, const std::string& model, const std::vector<Line>& lines, Index bucket,
                Index trained) {
  std::ofstream out(path);
  const std::string svg = std::filesystem::path(path).replace_extension(".svg").string();
  // The last lies over the one before where they are equal: thin on wide, so that both are seen.
  static constexpr const char* kLooks[] = {"lw 1.6 ps 0.6 pt 7 lc rgb '#D55E00'", "lw 6 ps 1 pt 7 lc rgb '#56B4E9'",
                                           "lw 1.2 ps 0.5 pt 7 lc rgb '#000000'"};
  out << "set encoding utf8\nset terminal svg size 960,420 fixed noenhanced font 'sans-serif,13' background rgb "
         "'white' "
         "name 'longspan'\nset output '"
      << svg << "'\nset border 3\nset tics nomirror scale 0\nset grid lc rgb '#dddddd' lt 1 lw 1\n"
      << "set title '" << model << " on a long text: how well it foresees the next token'\n"
      << "set xlabel 'position in the text (tokens)'\nset ylabel 'negative log-likelihood (nats per token)'\n"
      << "set yrange [0:*]\nset key outside below center maxrows 1\nset arrow from " << trained << ", graph 0 to "
      << trained << ", graph 1 nohead lc rgb '#777777' dt (6,4)\nset label 'trained length' at " << trained
      << ", graph 0.05 left offset 0.5,0 font ',11' textcolor rgb '#777777'\n";
  for (std::size_t l = 0; l < lines.size(); ++l) {
    out << "$line" << l << " << END\n";
    for (std::size_t b = 0; b < lines[l].nll.size(); ++b)
      out << (static_cast<double>(b) + 0.5) * static_cast<double>(bucket) << ' ' << lines[l].nll[b] << '\n';
    out << "END\n";
  }
  out << "plot ";
  for (std::size_t l = 0; l < lines.size(); ++l)
    out << (l == 0 ? "" : ", ") << "$line" << l << " with linespoints " << kLooks[l] << " title '" << lines[l].label
        << " (" << lines[l].pages << " pages)'";
  out << "\nset output\n";
  require(out.flush().good(), path, ": could not be written");
}

void run(const Settings& s) {
  for (const std::string& path : {s.model, s.tokenizer})
    require(
        std::filesystem::exists(path), path,
        ": no such file. A small checkpoint (1 MB) is https://huggingface.co/karpathy/tinyllamas, folder stories260K: "
        "stories260K.bin and tok512.bin");
  const Model model = load_model(s.model);
  const Tokenizer tokenizer(s.tokenizer, model.vocabulary);
  File file(s.text);
  std::vector<int> tokens = tokenizer.encode(file.text(file.left));
  require(std::ssize(tokens) >= 2, s.text, ": got ", tokens.size(), " tokens, expected at least 2");
  if (std::ssize(tokens) > s.tokens) tokens.resize(static_cast<std::size_t>(s.tokens));

  const ls::Rope<ls::Adjacent> rope(model.head_dim(), 10000);
  const Index all = ls::ceil_div(std::ssize(tokens), kPageSize);
  // Sinks, what is recent, and a chunk; each may begin and end inside a page.
  const Index few = std::min(all, ls::ceil_div(s.sinks, kPageSize) + ls::ceil_div(s.recent + kChunk, kPageSize) + 1);
  const auto streaming = [&](Index sinks, Index recent) {
    return Reader(model, ls::rotary_attention(rope, ls::CachePositions{sinks, recent}), ls::StreamingLlm{sinks, recent},
                  few, s.threads);
  };
  std::vector<Line> lines;
  lines.push_back(measure(
      "dense", Reader(model, ls::rotary_attention(rope, ls::Consecutive{}, ls::Causal{}), std::nullopt, all, s.threads),
      tokens, s.bucket));
  lines.push_back(measure(std::to_string(s.sinks) + " sinks + " + std::to_string(s.recent) + " recent",
                          streaming(s.sinks, s.recent), tokens, s.bucket));
  lines.push_back(
      measure(std::to_string(s.sinks + s.recent) + " recent", streaming(0, s.sinks + s.recent), tokens, s.bucket));
  print_table(lines, s.bucket);
  if (s.plot) write_plot(*s.plot, std::filesystem::path(s.model).stem().string(), lines, s.bucket, model.context);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      "How well a llama2.c checkpoint foresees a long text with attention sinks, with everything, and without.",
      "streaming");
  app.option_defaults()->always_capture_default();
  app.add_option("MODEL", settings.model, "checkpoint, such as stories260K.bin")->required();
  app.add_option("TOKENIZER", settings.tokenizer, "its tokenizer, such as tok512.bin")->required();
  app.add_option("TEXT", settings.text, "a long text")->required();
  app.add_option("--tokens", settings.tokens, "how many at most")->check(CLI::Range(Index{2}, Index{1} << 24));
  app.add_option("--sinks", settings.sinks, "first tokens that are never evicted")
      ->check(CLI::Range(Index{0}, Index{1} << 20));
  app.add_option("--recent", settings.recent, "last tokens that are seen")->check(CLI::Range(Index{1}, Index{1} << 20));
  app.add_option("--bucket", settings.bucket, "tokens of a mean")->check(CLI::Range(Index{1}, Index{1} << 24));
  app.add_option("--plot", settings.plot, "writes a script for gnuplot here, which draws an .svg of the same name")
      ->default_str("none");
  app.add_option("--threads", settings.threads, "for attention")->check(CLI::Range(Index{1}, Index{1024}));
  try {
    app.parse(argc, argv);
    run(settings);
    return 0;
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::cerr << "streaming: " << error.what() << '\n';
  }
  return 1;
}
