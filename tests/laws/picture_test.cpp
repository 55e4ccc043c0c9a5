// Pictures of masks: cells by the mask's readings and by counting, drawn as text and as SVG.

#include <gtest/gtest.h>

#include <longspan/mask/picture.hpp>
#include <longspan/mask/where.hpp>
#include <support/any_mask.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

TEST(Picture, Text) {
  EXPECT_EQ(Picture(Causal{}, 8, 8, 4).text(), "+   \n#+  \n##+ \n###+\n");
  EXPECT_EQ(Picture(Window{2}, 6, 12, 12).text(),
            "#           \n##          \n ##         \n  ##        \n   ##       \n    ##      \n");
  EXPECT_EQ(Picture(Full{}, 5, 5, 2).text(), "##\n##\n");
  EXPECT_EQ(Picture(Dilated(9, 4), 8, 8, 2).text(), ". \n..\n");
  const auto even = [](Index, Index k) { return k % 2 == 0; };
  EXPECT_EQ(Picture(Where(even), 4, 6, 2).text(), "+.\n+.\n");  // of three keys two, or one
  EXPECT_EQ(Picture(Where(even), 4, 4, 1).text(), "+\n");       // half
}

TEST(Picture, CellsAreWhatIsVisible) {
  for (const Expression& e : {causal(), window(9) | sinks(3), documents({0, 20, 41, 70}), dense({60, 60}, 0.5, 3),
                              !causal(), segments(16, 4, 3), full() & !full(), prefix(11)}) {
    const Picture p(e.mask, 61, 75, 10);
    ASSERT_EQ(p.rows(), 8);
    ASSERT_EQ(p.columns(), 10);
    for (Index r = 0; r < p.rows(); ++r)
      for (Index c = 0; c < p.columns(); ++c) {
        Index seen = 0, all = 0;
        for (Index q = r * 8; q < std::min<Index>(r * 8 + 8, 61); ++q)
          for (Index k = c * 8; k < std::min<Index>(c * 8 + 8, 75); ++k, ++all) seen += e.sees(q, k);
        EXPECT_EQ(p.visible(r, c), static_cast<float>(static_cast<double>(seen) / static_cast<double>(all))) << e.name;
        EXPECT_EQ(p.verdict(r, c) == Picture::Verdict::kFull, seen == all)
            << e.name;  // these masks' verdicts are exact
        EXPECT_EQ(p.verdict(r, c) == Picture::Verdict::kHidden, seen == 0) << e.name;
      }
  }
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Picture, Svg) {
  const std::string svg = Picture(Causal{}, 8, 8, 4).svg("causal & <more>");
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  EXPECT_NE(svg.find("causal &amp; &lt;more&gt;"), std::string::npos);
  EXPECT_NE(svg.find("keys 0 … 8"), std::string::npos);
  EXPECT_NE(svg.find("queries 0 … 8"), std::string::npos);
  EXPECT_EQ(count(svg, "#1b3a5c"), 3u + 1);  // a run of full cells in three rows, and the legend
  EXPECT_EQ(count(svg, "<rect"), count(svg, "/>"));
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
}

TEST(Picture, BadInputIsRefused) {
  EXPECT_TRUE(refused([] { Picture(Causal{}, 0, 5); }, "Picture.queries", 0, "within [1, 2^52]"));
  EXPECT_TRUE(refused([] { Picture(Causal{}, 5, -1); }, "Picture.keys", -1, "within [1, 2^52]"));
  EXPECT_TRUE(refused([] { Picture(Causal{}, 5, 5, 0); }, "Picture.cells", 0, ">= 1"));
}

}  // namespace
}  // namespace longspan::testing
