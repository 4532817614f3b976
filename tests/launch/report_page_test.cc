// The page of benchmarks: every result is drawn or named, points are where they belong, and nothing
// in a file becomes a tag.
// Covers: svg_plot.cc collectives_bench.cc bench_command.cc
#include "report_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "svg_plot.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kCollectives = R"({"benchmark": "collectives", "world_size": 2, "backend": "mpi", "results": [
  {"size_kib": 10, "sides": {"tree": {"p50_ms": 1, "p95_ms": 10, "bus_gb_per_s": 1},
                             "native": {"p50_ms": 10, "p95_ms": 10, "bus_gb_per_s": 10}}},
  {"size_kib": 1000, "sides": {"tree": {"p50_ms": 100, "p95_ms": 100, "bus_gb_per_s": 1},
                               "native": {"p50_ms": 10, "p95_ms": 100, "bus_gb_per_s": 1}}}]})";
constexpr const char* kStep = R"({"benchmark": "step", "world_size": 3, "recipe": "<r>.toml", "sides": {
  "tree": {"split_ms": {"compute": 6, "exposed_communication": 2, "update": 1, "loader": 1}},
  "native": {"split_ms": {"compute": 12, "exposed_communication": 4, "update": 2, "loader": 2}}}})";

TEST(ReportPage, DrawsWhatItKnowsAndNamesTheRest) {
  const std::string page = report_page({{"a.json", kCollectives},
                                        {"b.json", kStep},
                                        {"c.json", R"({"something": "else"})"},
                                        {"<d>.json", "{ not json"},
                                        {"e.json", R"({"benchmark": "step"})"},
                                        {"f.json", "[1, 2]"}});
  EXPECT_THAT(page, HasSubstr("<h2>a.json</h2>"));
  EXPECT_THAT(page, HasSubstr("2 ranks, mpi"));
  EXPECT_THAT(page, HasSubstr("time of an all-reduce"));
  EXPECT_THAT(page, HasSubstr("bus bandwidth"));
  EXPECT_THAT(page, HasSubstr("3 ranks, &lt;r&gt;.toml"));
  EXPECT_THAT(page, HasSubstr("<h2>&lt;d&gt;.json</h2>\n<p>can't be shown: "));
  EXPECT_THAT(page, Not(HasSubstr("<r>")));
  EXPECT_THAT(page, Not(HasSubstr("<d>")));
  size_t unknown = 0;
  for (size_t at = 0; (at = page.find("not a result of", at)) != std::string::npos; ++at) ++unknown;
  EXPECT_EQ(unknown, 2U);  // c and f
  EXPECT_THAT(page, HasSubstr("<h2>e.json</h2>\n<p>can't be shown: "));
}

// 640 x 380 with margins of 70, 20, 40 and 50: a decade is as wide as the others.
TEST(SvgPlot, PointsAreWhereTheirPowersOfTenAre) {
  const std::string svg =
      line_plot("t", "x", "y", {{"one", {{1, 1, 10}, {10, 10, 10}, {100, 1, 1}}}});
  EXPECT_THAT(svg, HasSubstr("<circle cx=\"70.0\" cy=\"330.0\""));
  EXPECT_THAT(svg, HasSubstr("<circle cx=\"345.0\" cy=\"40.0\""));
  EXPECT_THAT(svg, HasSubstr("<circle cx=\"620.0\" cy=\"330.0\""));
  EXPECT_THAT(svg, HasSubstr("d=\"M70.0 330.0L345.0 40.0L620.0 330.0\""));
  EXPECT_THAT(svg, HasSubstr("<line x1=\"70.0\" y1=\"330.0\" x2=\"70.0\" y2=\"40.0\" stroke=\"#0072b2\""));
  EXPECT_THROW(line_plot("t", "x", "y", {}), UsageError);
  EXPECT_THROW(line_plot("t", "x", "y", {{"one", {{0, 1, 1}}}}), UsageError);
}

TEST(SvgPlot, BarsAreAsLongAsTheirParts) {
  const std::string svg = bar_plot("t", "ms", {"a", "b"}, {{"first", {19, 19}}, {"second", {38, 0}}});
  EXPECT_THAT(svg, HasSubstr("x=\"170.0\" y=\"43.0\" width=\"190.0\""));
  EXPECT_THAT(svg, HasSubstr("x=\"360.0\" y=\"43.0\" width=\"190.0\""));
  EXPECT_THAT(svg, HasSubstr("x=\"170.0\" y=\"71.0\" width=\"380.0\""));
  EXPECT_THAT(svg, HasSubstr(">38 ms<"));
  EXPECT_THROW(bar_plot("t", "ms", {"a", "b"}, {{"first", {1}}}), UsageError);
}

TEST(WriteReportPage, NeedsAFolderWithResults) {
  EXPECT_EQ(write_report_page("/nowhere/at/all").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace lockstep
