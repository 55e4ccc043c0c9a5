// longspan_plot FOLDER JSON…: reads what longspan_bench wrote by --benchmark_out, and prints the gnuplot script that
// draws FOLDER/prefill.svg, decode.svg and crossover.svg. The same rows make the same bytes. Rows of all files are put
// together; where two files have one row, the later file's counts.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using nlohmann::json;

// ---- rows -----------------------------------------------------------------------------------------------------------

/// A row of the benchmark: prefill/<engine>/<type>/d<size>/<mask>/n<n>/t<threads> or
/// decode/<engine: the source>/<type>/g<size>/n<n>/t<threads>.
struct Row {
  std::string what, engine, type, mask;
  long size = 0, n = 0, threads = 0;
  double seconds = 0, fraction = 0;  // of what bounds it
};

std::optional<long> number(const std::string& part, char letter) {
  if (part.size() < 2 || part.size() > 12 || part[0] != letter) return {};
  if (part.find_first_not_of("0123456789", 1) != std::string::npos) return {};
  return std::stol(part.substr(1));
}

/// Empty for names of another form.
std::optional<Row> parse(const std::string& name) {
  std::vector<std::string> parts;
  std::istringstream text(name);
  for (std::string part; std::getline(text, part, '/');) parts.push_back(part);
  const bool prefill = parts.size() == 7 && parts[0] == "prefill", decode = parts.size() == 6 && parts[0] == "decode";
  if (!prefill && !decode) return {};
  const auto size = number(parts[3], prefill ? 'd' : 'g');
  const auto n = number(parts[parts.size() - 2], 'n'), threads = number(parts.back(), 't');
  if (!size || !n || *n == 0 || !threads) return {};
  return Row{parts[0], parts[1], parts[2], prefill ? parts[4] : "", *size, *n, *threads};
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  const std::size_t half = x.size() / 2;
  return x.size() % 2 ? x[half] : (x[half - 1] + x[half]) / 2;
}

double in_seconds(const std::string& unit) {
  static const std::map<std::string, double> units{{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  const auto at = units.find(unit);
  if (at == units.end()) throw std::runtime_error("time_unit is " + unit);
  return at->second;
}

struct Results {
  std::vector<Row> rows;  // in the order of the files
  std::string machine;    // as the benchmark says it, or empty where files differ
};

/// Adds the medians of a file: of its repetitions, or as Google Benchmark took them where it wrote no others.
void read(const std::string& file, Results& results) {
  std::ifstream stream(file);
  if (!stream) throw std::runtime_error("cannot be read");
  const json document = json::parse(stream);
  struct Samples {
    std::vector<double> seconds, fraction;
  };
  std::map<std::string, Samples> repetitions, medians;
  std::vector<std::string> names;
  for (const json& entry : document.at("benchmarks")) {
    const bool aggregate = entry.value("run_type", "iteration") == "aggregate";
    if (entry.value("error_occurred", false) || (aggregate && entry.value("aggregate_name", "") != "median")) continue;
    const std::string name = entry.contains("run_name") ? entry["run_name"] : entry.at("name");
    const char* counter = entry.contains("of_fma_peak") ? "of_fma_peak" : "of_read_bw";
    if (!entry.contains(counter)) continue;
    if (!repetitions.contains(name) && !medians.contains(name)) names.push_back(name);
    Samples& samples = (aggregate ? medians : repetitions)[name];
    samples.seconds.push_back(entry.at("real_time").get<double>() * in_seconds(entry.value("time_unit", "ns")));
    samples.fraction.push_back(entry[counter].get<double>());
  }
  for (const std::string& name : names) {
    std::optional<Row> row = parse(name);
    if (!row) continue;
    const Samples& samples = repetitions.contains(name) ? repetitions[name] : medians[name];
    row->seconds = median(samples.seconds);
    row->fraction = median(samples.fraction);
    const auto same = [&](const Row& r) {
      return r.what == row->what && r.engine == row->engine && r.type == row->type && r.mask == row->mask &&
             r.size == row->size && r.n == row->n && r.threads == row->threads;
    };
    const auto old = std::find_if(results.rows.begin(), results.rows.end(), same);
    (old == results.rows.end() ? results.rows.emplace_back() : *old) = *row;
  }
  const json& context = document.value("context", json::object());
  const std::string machine = context.value("isa", "") + ", compiler " + context.value("compiler", "?");
  results.machine = results.machine.empty() || results.machine == machine ? machine : " ";
}

// ---- charts ---------------------------------------------------------------------------------------------------------

struct Point {
  long n = 0;
  double y = 0;
};

/// How a line looks: its colour and the shape of its points, and its dashes (0: none, and filled points).
struct Style {
  int colour = 0, dash = 0;
};
constexpr int kGrey = -1;

struct Line {
  std::string label;
  Style style;
  std::vector<Point> points;
};

struct Panel {
  int column = 0, row = 0;
  std::string title;
  std::vector<Line> lines;

  Line& line(const std::string& label, Style style) {
    for (Line& l : lines)
      if (l.label == label) return l;
    return lines.emplace_back(Line{label, style, {}});
  }
};

/// The place of a value in a list of those seen so far: colours and panels go by first appearance.
template <class T>
int place_of(const T& value, std::vector<T>& seen) {
  auto at = std::find(seen.begin(), seen.end(), value);
  if (at == seen.end()) at = seen.insert(at, value);
  return static_cast<int>(at - seen.begin());
}

enum class Scale { kPercent, kPercentNearLimit, kSeconds };

struct Chart {
  std::string file, title, x, y, rows;  // rows: which rows it is made of
  Scale scale = Scale::kPercent;
  int width = 0, height = 0;  // of a panel, in pixels
  std::vector<Panel> panels = {};

  Panel& panel(int column, int row, const std::string& title_of_it) {
    for (Panel& p : panels)
      if (p.column == column && p.row == row) return p;
    return panels.emplace_back(Panel{column, row, title_of_it, {}});
  }

  /// In each line the points by n. A line of one point says nothing of n: left out beside others that do.
  void tidy() {
    const auto by_n = [](const Point& a, const Point& b) { return a.n < b.n; };
    bool any_line = false;
    for (Panel& p : panels)
      for (Line& l : p.lines) {
        std::sort(l.points.begin(), l.points.end(), by_n);
        any_line |= l.points.size() > 1;
      }
    if (any_line)
      for (Panel& p : panels) std::erase_if(p.lines, [](const Line& l) { return l.points.size() < 2; });
    std::erase_if(panels, [](const Panel& p) { return p.lines.empty(); });
  }
};

constexpr long kDim = 128;

Chart prefill(const std::vector<Row>& rows) {
  Chart chart{.file = "prefill.svg",
              .title = "Prefill: fraction of the FMA peak, head_dim 128, 1 thread",
              .x = "queries = keys (tokens)",
              .y = "% of the f32 FMA peak",
              .rows = "prefill/<engine>/<type>/d128/<mask>/n<tokens>/t1",
              .scale = Scale::kPercent,
              .width = 420,
              .height = 400};
  std::vector<std::string> types, masks;
  for (const Row& r : rows) {
    if (r.what != "prefill" || r.size != kDim || r.threads != 1) continue;
    const bool naive = r.engine == "naive";
    if (naive && r.mask != "causal") continue;  // all masks cost it the same for a pair
    Panel& panel = chart.panel(place_of(r.type, types), 0, r.type);
    const Style style{naive ? kGrey : place_of(r.engine + r.mask, masks)};
    panel.line(r.engine + ", " + r.mask, style).points.push_back({r.n, 100 * r.fraction});
  }
  return chart;
}

Chart decode(const std::vector<Row>& rows) {
  Chart chart{.file = "decode.svg",
              .title = "Decode of one token: fraction of the read bandwidth, 8 KV heads, head_dim 128",
              .x = "keys (tokens)",
              .y = "% of read bandwidth",
              .rows = "decode/<source>/<type>/g<group>/n<keys>/t<threads>",
              .scale = Scale::kPercentNearLimit,
              .width = 250,
              .height = 260};
  std::vector<std::string> sources, types;
  std::vector<long> groups, threads;
  for (const Row& r : rows) {
    if (r.what != "decode") continue;
    Panel& panel = chart.panel(place_of(r.engine, sources), place_of(r.type, types), r.engine + ", " + r.type);
    const std::string label = "group " + std::to_string(r.size) + ", " + std::to_string(r.threads) +
                              (r.threads == 1 ? " thread" : " threads");
    const Style style{place_of(r.size, groups), place_of(r.threads, threads)};
    panel.line(label, style).points.push_back({r.n, 100 * r.fraction});
  }
  return chart;
}

Chart crossover(const std::vector<Row>& rows) {
  Chart chart{.file = "crossover.svg",
              .title = "Time of a prefill, head_dim 128, 1 thread",
              .x = "queries = keys (tokens)",
              .y = "time per call",
              .rows = "prefill/{naive,flash}/<type>/d128/{causal,window1024}/n<tokens>/t1",
              .scale = Scale::kSeconds,
              .width = 420,
              .height = 340};
  std::vector<std::string> types, masks;
  for (const Row& r : rows) {
    if (r.what != "prefill" || r.size != kDim || r.threads != 1) continue;
    const bool naive = r.engine == "naive";
    const int colour = naive ? kGrey : place_of(r.engine + r.mask, masks);  // as in prefill.svg
    if (r.mask != "causal" && (naive || r.mask != "window1024")) continue;
    const std::string label = r.engine + ", " + r.mask + ", " + r.type;
    chart.panel(0, 0, "").line(label, {colour, place_of(r.type, types)}).points.push_back({r.n, r.seconds});
  }
  return chart;
}

// ---- gnuplot --------------------------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? "''" : std::string(1, c);
  return result + "'";
}

std::string look(Style style) {
  static constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                             "#E69F00", "#56B4E9", "#8B5A2B", "#000000"};
  static constexpr int kFilled[] = {7, 5, 9, 11, 13, 15}, kOpen[] = {6, 4, 8, 10, 12, 14};
  static constexpr const char* kDashes[] = {"1", "(6,4)", "(2,3)", "(8,3,2,3)"};
  const bool grey = style.colour == kGrey;
  const auto at = static_cast<std::size_t>(grey ? 0 : style.colour), dash = static_cast<std::size_t>(style.dash);
  const int shape = (dash > 0 ? kOpen : kFilled)[at % std::size(kFilled)];
  return "with linespoints lc rgb " + quoted(grey ? "#777777" : kColours[at % std::size(kColours)]) + " lw 1.6 ps 0.6" +
         " pt " + std::to_string(shape) + " dt " + kDashes[dash % std::size(kDashes)];
}

std::string tokens(long n) { return n % 1024 == 0 ? std::to_string(n / 1024) + "K" : std::to_string(n); }

/// The lengths that have room for their names on an axis of so many pixels.
std::string x_tics(const Chart& chart) {
  std::vector<long> all;
  for (const Panel& p : chart.panels)
    for (const Line& l : p.lines)
      for (const Point& point : l.points) place_of(point.n, all);
  std::sort(all.begin(), all.end());
  const double octaves = std::log2(static_cast<double>(all.back()) / static_cast<double>(all.front()));
  const double least = octaves * 36 / chart.width;
  std::ostringstream text;
  text << "set xrange [" << static_cast<double>(all.front()) / 1.2 << ":" << static_cast<double>(all.back()) * 1.2
       << "]\nset xtics (";
  double last = 0;
  for (const long n : all) {
    if (n != all.front() && std::log2(static_cast<double>(n) / last) < least) continue;
    text << (n == all.front() ? "" : ", ") << quoted(tokens(n)) << " " << n;
    last = static_cast<double>(n);
  }
  text << ")\n";
  return text.str();
}

std::string y_axis(const Chart& chart) {
  double least = INFINITY, most = 0;
  for (const Panel& p : chart.panels)
    for (const Line& l : p.lines)
      for (const Point& point : l.points) least = std::min(least, point.y), most = std::max(most, point.y);
  std::ostringstream text;
  if (chart.scale == Scale::kSeconds) {
    const double bottom = std::floor(std::log10(std::max(least, 1e-9))), top = std::ceil(std::log10(most));
    text << "set logscale y 10\nset yrange [1e" << bottom << ":1e" << std::max(top, bottom + 1) << "]\nset ytics (";
    const char* const names[] = {"1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"};
    for (int i = 0; i < 9; ++i) text << (i == 0 ? "" : ", ") << quoted(names[i]) << " 1e" << i - 6;
    text << ")\n";
  } else {
    const double bottom = chart.scale == Scale::kPercent ? 0 : std::min(50., 10 * std::floor(least / 10));
    const double step = most > 120 ? 20 : 10, top = std::max(100., step * std::ceil(most / step));
    text << "set yrange [" << bottom << ":" << top << "]\nset ytics " << step << "\n";
  }
  return text.str();
}

/// Panels in a grid, and one legend for all to the right of them.
void print(const Chart& chart, const std::string& folder, const std::string& machine, std::ostream& out) {
  constexpr int kLeft = 90, kGap = 24, kTop = 62, kBetween = 56, kBottom = 62, kLetter = 8;
  int columns = 0, rows = 0;
  std::size_t longest = 0;
  std::vector<Line> legend;
  for (const Panel& p : chart.panels) {
    columns = std::max(columns, p.column + 1), rows = std::max(rows, p.row + 1);
    for (const Line& l : p.lines) {
      const auto same = [&](const Line& other) { return other.label == l.label; };
      if (std::none_of(legend.begin(), legend.end(), same)) legend.push_back({l.label, l.style, {}});
      longest = std::max(longest, l.label.size());
    }
  }
  std::stable_partition(legend.begin(), legend.end(), [](const Line& l) { return l.style.colour != kGrey; });
  const int right_of_panels = kLeft + columns * chart.width + (columns - 1) * kGap;
  const int width = right_of_panels + 64 + kLetter * static_cast<int>(longest);
  const int height = kTop + rows * chart.height + (rows - 1) * kBetween + kBottom;
  const auto x = [&](int pixels) { return "screen " + std::to_string(static_cast<double>(pixels) / width); };
  const auto y = [&](int from_top) { return "screen " + std::to_string(1 - static_cast<double>(from_top) / height); };

  out << "reset\nset encoding utf8\n"
      << "set terminal svg size " << width << "," << height
      << " fixed noenhanced font 'sans-serif,13' background rgb 'white' name 'longspan'\n"
      << "set output " << quoted(folder + "/" + chart.file) << "\n"
      << "set logscale x 2\nset border 3\nset tics nomirror scale 0\nset samples 2\n"
      << "set grid lc rgb '#dddddd' lt 1 lw 1\n"
      << x_tics(chart) << y_axis(chart) << "set multiplot\n"
      << "set label 1 " << quoted(chart.title) << " at " << x(kLeft) << ", " << y(20) << " left font ',15'\n"
      << "set label 2 " << quoted(machine) << " at " << x(width - 12) << ", " << y(height - 14)
      << " right font ',11' textcolor rgb '#777777'\n";
  const char* const format = chart.scale == Scale::kSeconds ? "%g" : "%g%%";
  for (std::size_t i = 0; i < chart.panels.size(); ++i) {
    const Panel& p = chart.panels[i];
    const int left = kLeft + p.column * (chart.width + kGap), top = kTop + p.row * (chart.height + kBetween);
    const auto is_below = [&](const Panel& other) { return other.column == p.column && other.row > p.row; };
    const auto is_left = [&](const Panel& other) { return other.row == p.row && other.column < p.column; };
    const bool lowest = std::none_of(chart.panels.begin(), chart.panels.end(), is_below);
    const bool leftmost = std::none_of(chart.panels.begin(), chart.panels.end(), is_left);
    out << "set lmargin at " << x(left) << "\nset rmargin at " << x(left + chart.width) << "\nset tmargin at " << y(top)
        << "\nset bmargin at " << y(top + chart.height) << "\n"
        << "set format y " << quoted(leftmost ? format : "") << "\n"
        << "set title " << quoted(p.title) << " offset 0,-0.6\n"
        << "set xlabel " << quoted(lowest ? chart.x : "") << "\n";
    if (leftmost)  // not ylabel: gnuplot puts it outside where it takes the tics for wide
      out << "set label 3 " << quoted(chart.y) << " at " << x(16) << ", " << y(top + chart.height / 2)
          << " center rotate\n";
    for (std::size_t l = 0; l < p.lines.size(); ++l) {
      out << "$line" << l << " << END\n";
      for (const Point& point : p.lines[l].points) out << point.n << " " << point.y << "\n";
      out << "END\n";
    }
    const bool last = i + 1 == chart.panels.size();
    if (last)
      out << "set key at " << x(right_of_panels + 16) << ", " << y(kTop) << " left top Left reverse samplen 2.5"
          << " spacing 1.25\n";
    else
      out << "unset key\n";
    out << "plot ";
    if (chart.scale != Scale::kSeconds) out << "100 with lines lc rgb '#444444' lw 1 notitle, \\\n  ";
    for (std::size_t l = 0; l < p.lines.size(); ++l)
      out << (l == 0 ? "" : ", \\\n  ") << "$line" << l << " " << look(p.lines[l].style) << " notitle";
    if (last)
      for (const Line& l : legend) out << ", \\\n  keyentry " << look(l.style) << " title " << quoted(l.label);
    out << "\nunset label\n";
  }
  out << "unset multiplot\nset output\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: longspan_plot FOLDER JSON… | gnuplot\n";
    return 2;
  }
  Results results;
  for (int i = 2; i < argc; ++i) {
    try {
      read(argv[i], results);
    } catch (const std::exception& error) {
      std::cerr << argv[i] << ": " << error.what() << "\n";
      return 1;
    }
  }
  bool drawn = false;
  for (Chart chart : {prefill(results.rows), decode(results.rows), crossover(results.rows)}) {
    chart.tidy();
    if (chart.panels.empty()) {
      std::cerr << chart.file << ": not drawn, no rows " << chart.rows << "\n";
      continue;
    }
    print(chart, argv[1], results.machine, std::cout);
    drawn = true;
  }
  return drawn ? 0 : 1;
}
