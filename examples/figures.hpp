#pragma once
// Line charts as SVG, drawn by gnuplot.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace figures {

struct Line {
  std::string label;
  std::vector<std::pair<double, double>> points;
};

struct Panel {
  std::string title, x, y;
  bool log_x = false, log_y = false;
  double low = 0, high = 0;        ///< of y; equal: as the lines need
  std::vector<double> marks = {};  ///< vertical lines
  std::string mark_label = {};     ///< of the first of them
  std::vector<Line> lines = {};
};

/// Panels beside each other, with one legend to the right: lines of one label look the same in all of them.
struct Figure {
  std::string file;
  std::vector<Panel> panels;
};

inline std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "''" : std::string(1, c);
  return out + "'";
}

/// The gnuplot script of a figure.
inline std::string script(const Figure& figure, const std::string& folder) {
  // Wong's colours, which everybody can tell apart; then the same with dashes.
  static const char* const kColours[] = {"#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
  constexpr int kPanel = 400, kLeft = 100, kRight = 24, kTop = 44, kPlot = 310, kBottom = 64, kLetter = 8;
  std::vector<std::string> labels;
  std::size_t longest = 0;
  for (const Panel& panel : figure.panels)
    for (const Line& line : panel.lines) {
      if (std::find(labels.begin(), labels.end(), line.label) == labels.end()) labels.push_back(line.label);
      longest = std::max(longest, line.label.size());
    }
  const auto look = [&](const std::string& label) {
    const auto at = std::find(labels.begin(), labels.end(), label) - labels.begin();
    return "with lines lw 2 lc rgb '" + std::string(kColours[at % 7]) + "' dt " + (at < 7 ? "1" : "2");
  };
  const int panels = static_cast<int>(figure.panels.size()), step = kLeft + kPanel + kRight;
  const int width = panels * step + 60 + kLetter * static_cast<int>(longest), height = kTop + kPlot + kBottom;
  const auto x = [&](int pixels) { return "screen " + std::to_string(static_cast<double>(pixels) / width); };
  const auto y = [&](int from_top) { return "screen " + std::to_string(1 - static_cast<double>(from_top) / height); };
  std::ostringstream out;
  out << "reset\nset encoding utf8\nset terminal svg size " << width << "," << height
      << " fixed noenhanced font 'sans-serif,13' background rgb 'white' name 'longspan'\nset output "
      << quoted(folder + "/" + figure.file)
      << "\nset border 3\nset tics nomirror\nset autoscale xfix\nset grid lc rgb '#dddddd' lt 1 lw 1\nset multiplot\n";
  for (int p = 0; p < panels; ++p) {
    const Panel& panel = figure.panels[static_cast<std::size_t>(p)];
    out << "unset arrow\nunset label\nunset logscale\nset lmargin at " << x(p * step + kLeft) << "\nset rmargin at "
        << x(p * step + kLeft + kPanel) << "\nset tmargin at " << y(kTop) << "\nset bmargin at " << y(kTop + kPlot)
        << "\nset title " << quoted(panel.title) << " offset 0,-0.5\nset xlabel " << quoted(panel.x) << "\nset ylabel "
        << quoted(panel.y) << "\nset format y '%g'\n";
    const bool ranged = panel.low < panel.high;
    if (panel.log_x) out << "set logscale x 2\n";
    if (panel.log_y) out << "set logscale y " << (ranged && panel.high < 100 * panel.low ? 2 : 10) << "\n";
    if (ranged)
      out << "set yrange [" << panel.low << ":" << panel.high << "]\n";
    else
      out << "set yrange [*:*]\n";
    for (const double mark : panel.marks)
      out << "set arrow from first " << mark << ", graph 0 to first " << mark
          << ", graph 1 nohead lc rgb '#666666' dt 3\nset label " << quoted(panel.mark_label) << " at first " << mark
          << ", graph 0.05 offset 0.4,0 textcolor rgb '#666666' font ',11'\n";
    for (std::size_t l = 0; l < panel.lines.size(); ++l) {
      out << "$line" << l << " << END\n";
      for (const auto& [at, value] : panel.lines[l].points) out << at << " " << value << "\n";
      out << "END\n";
    }
    const bool last = p + 1 == panels;
    if (last)
      out << "set key at " << x(panels * step) << ", " << y(kTop)
          << " left top Left reverse samplen 2.5 spacing 1.25\n";
    else
      out << "unset key\n";
    out << "plot ";
    for (std::size_t l = 0; l < panel.lines.size(); ++l)
      out << (l == 0 ? "" : ", ") << "$line" << l << " " << look(panel.lines[l].label) << " notitle";
    for (std::size_t l = 0; last && l < labels.size(); ++l)
      out << ", keyentry " << look(labels[l]) << " title " << quoted(labels[l]);
    out << "\n";
  }
  out << "unset multiplot\nset output\n";
  return out.str();
}

/// Writes folder/figures.gnuplot and runs it. False where there is no gnuplot.
inline bool draw(const std::vector<Figure>& all, const std::string& folder) {
  const std::string path = folder + "/figures.gnuplot";
  std::ofstream file(path);
  for (const Figure& figure : all) file << script(figure, folder);
  file.close();
  std::FILE* const gnuplot = ::popen("gnuplot", "w");  // the name of a file is no argument of a shell
  if (!gnuplot) return false;
  std::fputs(("load " + quoted(path) + "\n").c_str(), gnuplot);
  return ::pclose(gnuplot) == 0;
}

}  // namespace figures
