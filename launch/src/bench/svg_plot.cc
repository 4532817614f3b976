#include "svg_plot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr double kWidth = 660, kHeight = 380;
constexpr double kLeft = 70, kRight = 40, kTop = 40, kBottom = 50;
constexpr double kRowHeight = 28;
// Told apart by people who see colours differently, too (Okabe and Ito, 2008).
constexpr std::array<const char*, 5> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                "#e69f00"};

const char* color_of(size_t index) {
  return kColors[index % kColors.size()];
}

std::string number(double value) {
  return fixed(value, 1);
}

/// 0.02, 3, 150: as short as three digits allow.
std::string short_number(double value) {
  if (value == 0) return "0";
  const int digits = std::clamp(2 - static_cast<int>(std::floor(std::log10(std::abs(value)))), 0, 6);
  std::string text = fixed(value, digits);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string text_at(double x, double y, const std::string& anchor, const std::string& text) {
  return cat("<text x=\"", number(x), "\" y=\"", number(y), "\" text-anchor=\"", anchor, "\">",
             html_escaped(text), "</text>\n");
}

std::string opening(double height, const std::string& title) {
  return cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", number(kWidth), " ",
             number(height), "\" width=\"", number(kWidth), "\" font-family=\"sans-serif\" ",
             "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
             text_at(kWidth / 2, 20, "middle", title));
}

/// From values to places, by powers of ten.
struct LogAxis {
  double low = 0, high = 1;       // exponents
  double from = 0, to = 0;        // places
  double place(double value) const {
    return from + (std::log10(value) - low) / (high - low) * (to - from);
  }
};

LogAxis axis_of(double least, double most, double from, double to) {
  LogAxis axis{std::floor(std::log10(least)), std::ceil(std::log10(most)), from, to};
  if (axis.high <= axis.low) axis.high = axis.low + 1;
  return axis;
}

std::string line(double x1, double y1, double x2, double y2, const std::string& style) {
  return cat("<line x1=\"", number(x1), "\" y1=\"", number(y1), "\" x2=\"", number(x2), "\" y2=\"",
             number(y2), "\" ", style, "/>\n");
}

std::string legend_entry(size_t index, const std::string& name, double x, double y) {
  return cat("<rect x=\"", number(x), "\" y=\"", number(y - 9), "\" width=\"10\" height=\"10\" fill=\"",
             color_of(index), "\"/>\n", text_at(x + 15, y, "start", name));
}

}  // namespace

std::string html_escaped(const std::string& text) {
  std::string escaped;
  for (char c : text) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      default: escaped += c;
    }
  }
  return escaped;
}

std::string line_plot(const std::string& title, const std::string& x_label,
                      const std::string& y_label, const std::vector<PlotSeries>& series) {
  double least_x = INFINITY, most_x = 0, least_y = INFINITY, most_y = 0;
  for (const PlotSeries& one : series) {
    for (const PlotSeries::Point& point : one.points) {
      LOCKSTEP_CHECK(point.x > 0 && point.y > 0 && point.high >= point.y, "a point at ", point.x,
                     ", ", point.y, " to ", point.high);
      least_x = std::min(least_x, point.x);
      most_x = std::max(most_x, point.x);
      least_y = std::min(least_y, point.y);
      most_y = std::max(most_y, point.high);
    }
  }
  LOCKSTEP_CHECK(most_x > 0, "a plot without a point");
  const LogAxis x = axis_of(least_x, most_x, kLeft, kWidth - kRight);
  const LogAxis y = axis_of(least_y, most_y, kHeight - kBottom, kTop);
  std::string svg = opening(kHeight, title);
  for (double e = x.low; e <= x.high; ++e) {
    const double at = x.place(std::pow(10, e));
    svg += line(at, y.from, at, y.to, "stroke=\"#ddd\"");
    svg += text_at(at, y.from + 18, "middle", short_number(std::pow(10, e)));
  }
  for (double e = y.low; e <= y.high; ++e) {
    const double at = y.place(std::pow(10, e));
    svg += line(x.from, at, x.to, at, "stroke=\"#ddd\"");
    svg += text_at(x.from - 6, at + 4, "end", short_number(std::pow(10, e)));
  }
  svg += text_at((x.from + x.to) / 2, kHeight - 12, "middle", x_label);
  svg += text_at(6, kTop - 8, "start", y_label);
  for (size_t i = 0; i < series.size(); ++i) {
    std::string path;
    for (const PlotSeries::Point& point : series[i].points) {
      const double px = x.place(point.x), py = y.place(point.y);
      path += cat(path.empty() ? "M" : "L", number(px), " ", number(py));
      svg += line(px, py, px, y.place(point.high), cat("stroke=\"", color_of(i), "\""));
      svg += cat("<circle cx=\"", number(px), "\" cy=\"", number(py), "\" r=\"3\" fill=\"",
                 color_of(i), "\"/>\n");
    }
    svg += cat("<path d=\"", path, "\" fill=\"none\" stroke-width=\"2\" stroke=\"", color_of(i),
               "\"/>\n");
    svg += legend_entry(i, series[i].name, kLeft + 12, kTop + 14 + 16 * static_cast<double>(i));
  }
  return svg + "</svg>\n";
}

std::string bar_plot(const std::string& title, const std::string& unit,
                     const std::vector<std::string>& part_names, const std::vector<PlotBar>& bars) {
  constexpr double kNames = 170;
  const double height = kTop + kRowHeight * static_cast<double>(bars.size()) + kBottom;
  double most = 0;
  for (const PlotBar& bar : bars) {
    LOCKSTEP_CHECK(bar.parts.size() == part_names.size(), bar.parts.size(), " parts, ",
                   part_names.size(), " names");
    double sum = 0;
    for (double part : bar.parts) sum += part;
    most = std::max(most, sum);
  }
  if (most <= 0) most = 1;
  const double scale = (kWidth - kNames - kRight - 70) / most;
  std::string svg = opening(height, title);
  for (size_t i = 0; i < bars.size(); ++i) {
    const double top = kTop + kRowHeight * static_cast<double>(i);
    double at = kNames, sum = 0;
    svg += text_at(kNames - 8, top + 16, "end", bars[i].name);
    for (size_t p = 0; p < bars[i].parts.size(); ++p) {
      const double part = std::max(bars[i].parts[p], 0.0);
      svg += cat("<rect x=\"", number(at), "\" y=\"", number(top + 3), "\" width=\"",
                 number(part * scale), "\" height=\"", number(kRowHeight - 8), "\" fill=\"",
                 color_of(p), "\"><title>", html_escaped(part_names[p]), ": ", short_number(part),
                 " ", html_escaped(unit), "</title></rect>\n");
      at += part * scale;
      sum += part;
    }
    svg += text_at(at + 6, top + 16, "start", cat(short_number(sum), " ", unit));
  }
  for (size_t p = 0; p < part_names.size(); ++p)
    svg += legend_entry(p, part_names[p], kLeft + 130 * static_cast<double>(p), height - 16);
  return svg + "</svg>\n";
}

}  // namespace lockstep
