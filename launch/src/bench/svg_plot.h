#pragma once
// Plots as SVG text, enough for a page of benchmarks: lines over a logarithmic axis, and stacked
// bars. Pure. Thread-safety: functions of their arguments.

#include <string>
#include <vector>

namespace lockstep {

/// A line with, at each point, how far its values reach up (p95 above a median, say).
struct PlotSeries {
  struct Point {
    double x = 0;
    double y = 0;
    double high = 0;  ///< at least y; drawn as a whisker
  };
  std::string name;
  std::vector<Point> points;  ///< positive
};

/// Both axes logarithmic. Texts are escaped. Requires: positive values, at least one point.
std::string line_plot(const std::string& title, const std::string& x_label,
                      const std::string& y_label, const std::vector<PlotSeries>& series);

/// One bar a row, its parts one behind the other, in one unit from 0.
struct PlotBar {
  std::string name;
  std::vector<double> parts;  ///< as many as part_names, none negative
};
std::string bar_plot(const std::string& title, const std::string& unit,
                     const std::vector<std::string>& part_names, const std::vector<PlotBar>& bars);

/// Text for a place between tags or in an attribute.
std::string html_escaped(const std::string& text);

}  // namespace lockstep
