// A gallery of masks: what each lets queries see, drawn, and what attention under it costs.
//
//   masks [--tokens 16384] [--text] [--out FOLDER] [--gflops G --gbps B]
//
// The table is from plan(), which counts what a call would do without doing it. With --gflops and --gbps (what your
// machine can do at most: `sh cmake/dev.sh demo` measures both) it also says how long a head takes at least. --text
// draws into the terminal; --out writes an SVG for each mask, and a page with all of them.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <longspan/longspan.hpp>
#include <string>
#include <vector>

namespace ls = longspan;
using ls::Index;

namespace {

struct Settings {
  Index tokens = 16384;
  bool text = false;
  std::string out = {};
  ls::MachineLimits limits = {};
};

/// One head of dimension 128, as many queries as keys; views without memory, since a plan reads shapes only.
template <class M>
ls::Plan plan_of(const M& mask, Index tokens) {
  const ls::TensorView<const float> nothing{nullptr, tokens, 1, 128, 128, 128};
  return ls::attention(mask).plan(ls::Shape{tokens, 1, 128}, nothing, nothing);
}

class Gallery {
 public:
  explicit Gallery(const Settings& settings) : settings_(settings) {
    std::printf("%-34s %15s %8s %8s %8s %8s %10s\n", "mask", "visible pairs", "of all", "full", "partial", "skipped",
                "at least");
  }
  ~Gallery() {
    if (settings_.out.empty()) return;
    std::ofstream page(std::filesystem::path(settings_.out) / "index.html");
    page << "<!doctype html><meta charset=\"utf-8\"><title>longspan masks</title>\n";
    for (const std::string& file : files_) page << "<img src=\"" << file << "\" alt=\"" << file << "\">\n";
  }

  template <ls::Mask M>
  void add(const std::string& name, const M& mask) {
    const ls::Plan plan = plan_of(mask, settings_.tokens);
    const double all = static_cast<double>(settings_.tokens) * static_cast<double>(settings_.tokens);
    const double least = plan.seconds(settings_.limits);
    std::printf("%-34s %15lld %7.2f%% %8lld %8lld %8lld ", name.c_str(), static_cast<long long>(plan.pairs),
                100 * static_cast<double>(plan.pairs) / all, static_cast<long long>(plan.full_tiles),
                static_cast<long long>(plan.partial_tiles), static_cast<long long>(plan.skipped_tiles));
    least > 0 ? std::printf("%7.2f ms\n", least * 1e3) : std::printf("%10s\n", "-");
    if (settings_.text) {
      constexpr Index kCells = 32;
      std::printf("\n%s\n", ls::Picture(mask, settings_.tokens, settings_.tokens, kCells).text().c_str());
    }
    if (!settings_.out.empty()) {
      files_.push_back(std::to_string(files_.size()) + ".svg");
      std::ofstream(std::filesystem::path(settings_.out) / files_.back())
          << ls::Picture(mask, settings_.tokens, settings_.tokens).svg(name);
    }
  }

 private:
  const Settings& settings_;
  std::vector<std::string> files_;
};

/// Documents whose lengths double, then stay at a quarter of all.
std::vector<Index> lengths(Index tokens) {
  std::vector<Index> at{0};
  for (Index size = tokens / 32; at.back() < tokens; size = std::min(2 * size, tokens / 4))
    at.push_back(std::min(at.back() + size, tokens));
  return at;
}

void draw(const Settings& settings) {
  const Index n = settings.tokens, unit = n / 16;  // everything is a share of the length, so that pictures look alike
  Gallery gallery(settings);
  gallery.add("Full", ls::Full{});
  gallery.add("Causal", ls::Causal{});
  gallery.add("Window{n/16}", ls::Window{unit});
  gallery.add("Window::symmetric(n/16)", ls::Window::symmetric(unit));
  gallery.add("Window{n/16} | Sinks{4}", ls::Window{unit} | ls::Sinks{4});
  gallery.add("Prefix{n/4}", ls::Prefix{n / 4});
  gallery.add("Chunked{n/8}", ls::Chunked{2 * unit});
  gallery.add("Causal & !Window{n/8}", ls::Causal{} & !ls::Window{2 * unit});
  gallery.add("Dilated{8, 4, 64}", ls::Dilated{8, 4, 64});
  gallery.add("DilatedSegments{n/4, 4}", ls::DilatedSegments{4 * unit, 4});
  gallery.add("longformer(512, 16)", ls::longformer(512, 16));
  gallery.add("strided(128)", ls::strided(128));
  gallery.add("fixed_blocks(n/16, 64)", ls::fixed_blocks(unit, 64));
  gallery.add("big_bird, blocks of 64", ls::big_bird({.blocks = n / 64}));
  const std::vector<Index> documents = lengths(n);
  gallery.add("Documents", ls::Documents{documents});
  gallery.add("Documents & Causal", ls::Documents{documents} & ls::Causal{});
  const std::vector<ls::Interval> images{{unit, 3 * unit}, {8 * unit, 9 * unit}};
  gallery.add("Causal | Spans (images)", ls::Causal{} | ls::Spans{images});
  const ls::BlockGrid grid{n / 256, n / 256, 256, 256};
  gallery.add("BlockSparse & Causal",
              ls::BlockSparse(grid, [](Index r, Index c) { return (r * 7 + c * 3) % 5 == 0; }) & ls::Causal{});
  gallery.add(
      "DenseMask of the last 64 tokens",
      ls::Sinks{n - 64} | ls::DenseMask({64, 64, n - 64, n - 64}, [](Index q, Index k) { return q % 3 == k % 3; }));
  const std::vector<Index> parents{-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10};
  gallery.add("tree of 16 nodes", ls::tree(n - 16, parents));
  gallery.add("Where (no runs: all is tested)", ls::Where([n](Index q, Index k) { return k <= q && (q - k) * 8 < n; }));
  gallery.add("ByBlocks (the same)",
              ls::ByBlocks({n / 128, n / 128, 128, 128}, [n](Index q, Index k) { return k <= q && (q - k) * 8 < n; }));

  // Local and global layers in turn (Gemma 3: five of six see a window; Llama 4: three of four see a chunk). Masks are
  // values, so a model keeps one for each layer.
  const Index local = plan_of(ls::Window{1024}, n).pairs, global = plan_of(ls::Causal{}, n).pairs;
  std::printf("\n48 layers, every sixth Causal and the others Window{1024}: %.1f%% of the pairs of 48 Causal ones\n",
              100 * (40. * static_cast<double>(local) + 8. * static_cast<double>(global)) /
                  (48. * static_cast<double>(global)));
  // Heads may differ as well.
  const auto by_head = ls::by_head(8, [](Index head) { return ls::Window{Index{256} << head}; });
  const ls::TensorView<const float> keys{nullptr, n, 2, 128, 256, 128};
  const ls::Plan heads = ls::attention(by_head).plan(ls::Shape{n, 8, 128}, keys, keys);
  std::printf("8 heads of windows 256, 512, … 32768: %.1f%% of the pairs of 8 Causal ones\n",
              100 * static_cast<double>(heads.pairs) / (8. * static_cast<double>(global)));
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  double gflops = 0, gbps = 0;
  CLI::App app("A gallery of masks and what they cost");
  app.add_option("--tokens", settings.tokens, "queries, and as many keys")->check(CLI::Range(1024, 1 << 22));
  app.add_flag("--text", settings.text, "draw into the terminal");
  app.add_option("--out", settings.out, "an existing folder for SVG files")->check(CLI::ExistingDirectory);
  app.add_option("--gflops", gflops, "what one core can do: GFLOP/s of float");
  app.add_option("--gbps", gbps, "… and read: GB/s");
  CLI11_PARSE(app, argc, argv);
  settings.limits = {gflops * 1e9, gbps * 1e9};
  settings.tokens = settings.tokens / 1024 * 1024;
  draw(settings);
  return 0;
}
