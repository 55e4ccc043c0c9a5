#pragma once
// Masks to look at: which tiles of queries × keys are seen as a whole, in part, or not at all.

#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/pairs.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Queries down, keys across, in cells of the same size (but for the last ones).
class Picture {
 public:
  /// What the mask's own readings say of a cell: hidden and full are what kernels skip and what they run without a
  /// test.
  enum class Verdict : unsigned char { kHidden, kPartial, kFull };

  /// Of the mask from position 0 on, at most `cells` cells a side. O(cells² + queries · runs).
  /// Throws std::invalid_argument unless queries, keys and cells are >= 1 and positions below 2^52.
  template <Mask M>
  Picture(const M& mask, Index queries, Index keys, Index cells = 64) : Picture(queries, keys, cells) {
    for (Index r = 0; r < rows_; ++r)
      for (Index c = 0; c < columns_; ++c) {
        const Interval q = queries_of(r), k = keys_of(c);
        const Interval some = mask.some(q, k.begin);
        const bool full = mask.every(q, k.begin).contains(k);
        const Verdict verdict = full                                  ? Verdict::kFull
                                : some.empty() || some.begin >= k.end ? Verdict::kHidden
                                                                      : Verdict::kPartial;
        const Index pairs = verdict == Verdict::kPartial ? count_pairs(mask, q, k) : full ? pairs_of(q, k) : 0;
        cells_.push_back(
            {verdict, static_cast<float>(static_cast<double>(pairs) / static_cast<double>(pairs_of(q, k)))});
      }
  }

  Index rows() const { return rows_; }
  Index columns() const { return columns_; }
  Verdict verdict(Index row, Index column) const { return at(row, column).verdict; }
  /// The share of the cell's pairs that see each other, exactly.
  float visible(Index row, Index column) const { return at(row, column).visible; }

  /// A line for each row of cells: '#' full, '+' at least half and '.' less than half of a partial one, ' ' hidden.
  std::string text() const {
    std::string lines;
    for (Index r = 0; r < rows_; ++r) {
      for (Index c = 0; c < columns_; ++c) {
        const Cell& cell = at(r, c);
        lines += cell.verdict == Verdict::kFull     ? '#'
                 : cell.verdict == Verdict::kHidden ? ' '
                 : cell.visible >= 0.5f             ? '+'
                                                    : '.';
      }
      lines += '\n';
    }
    return lines;
  }

  /// One SVG image with axes, a title, and a legend: full cells dark, partial ones in another colour that is paler
  /// where less is seen, hidden ones white.
  std::string svg(std::string_view title) const {
    constexpr Index kSide = 384, kLeft = 56, kTop = 56;
    const double size = static_cast<double>(kSide) / static_cast<double>(std::max(rows_, columns_));
    const double width = size * static_cast<double>(columns_), height = size * static_cast<double>(rows_);
    std::ostringstream out;
    out.precision(5);
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width + kLeft + 24 << "\" height=\""
        << height + kTop + 40 << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
        << "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        << "<text x=\"" << kLeft << "\" y=\"18\" font-size=\"14\">" << escaped(title) << "</text>\n"
        << "<text x=\"" << kLeft << "\" y=\"46\">keys 0 … " << keys_ << " →</text>\n"
        << "<text transform=\"translate(44 " << kTop << ") rotate(90)\">queries 0 … " << queries_ << " →</text>\n"
        << "<g transform=\"translate(" << kLeft << ' ' << kTop << ")\">\n";
    for (Index r = 0; r < rows_; ++r)
      for (Index c = 0, end; c < columns_; c = end) {
        const std::string colour = colour_of(at(r, c));
        for (end = c + 1; end < columns_ && colour_of(at(r, end)) == colour;) ++end;  // one rectangle for a run
        if (!colour.empty())
          out << "<rect x=\"" << size * static_cast<double>(c) << "\" y=\"" << size * static_cast<double>(r)
              << "\" width=\"" << size * static_cast<double>(end - c) << "\" height=\"" << size << "\" fill=\""
              << colour << "\"/>\n";
      }
    out << "<rect width=\"" << width << "\" height=\"" << height << "\" fill=\"none\" stroke=\"#888\"/>\n"
        << "<rect y=\"" << height + 12 << "\" width=\"12\" height=\"12\" fill=\"" << kFullColour
        << "\"/><text x=\"18\" y=\"" << height + 22 << "\">full</text>\n"
        << "<rect x=\"60\" y=\"" << height + 12 << "\" width=\"12\" height=\"12\" fill=\"" << kPartialColours[3]
        << "\"/><text x=\"78\" y=\"" << height + 22 << "\">partial (paler: less visible)</text>\n</g>\n</svg>\n";
    return out.str();
  }

 private:
  struct Cell {
    Verdict verdict;
    float visible;
  };
  static constexpr const char* kFullColour = "#1b3a5c";
  static constexpr const char* kPartialColours[] = {"#fbe3c8", "#f6c48f", "#ee9f55", "#e07b1f"};

  Picture(Index queries, Index keys, Index cells) : queries_(queries), keys_(keys) {
    check(queries >= 1 && queries <= kPositionEnd, "Picture.queries", queries, "within [1, 2^52]");
    check(keys >= 1 && keys <= kPositionEnd, "Picture.keys", keys, "within [1, 2^52]");
    check(cells >= 1, "Picture.cells", cells, ">= 1");
    step_ = ceil_div(std::max(queries, keys), cells);
    rows_ = ceil_div(queries, step_);
    columns_ = ceil_div(keys, step_);
  }

  Interval queries_of(Index r) const { return {r * step_, std::min((r + 1) * step_, queries_)}; }
  Interval keys_of(Index c) const { return {c * step_, std::min((c + 1) * step_, keys_)}; }
  const Cell& at(Index r, Index c) const { return cells_[static_cast<std::size_t>(r * columns_ + c)]; }
  static std::string colour_of(const Cell& cell) {
    if (cell.verdict == Verdict::kHidden) return {};
    if (cell.verdict == Verdict::kFull) return kFullColour;
    return kPartialColours[std::min(static_cast<int>(cell.visible * 4), 3)];
  }
  static std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text)
      c == '&' ? out += "&amp;" : c == '<' ? out += "&lt;" : c == '>' ? out += "&gt;" : out += c;
    return out;
  }

  Index queries_, keys_, step_ = 1, rows_ = 0, columns_ = 0;
  std::vector<Cell> cells_;
};

}  // namespace longspan::inline LONGSPAN_ISA
