#include "report_page.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "svg_plot.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxResultBytes = 64 << 20;

/// Lines of one figure over the sizes, a line a side.
std::string plot_over_sizes(const Json& result, const std::string& title, const std::string& unit,
                            const char* figure, const char* high) {
  std::vector<PlotSeries> series;
  for (const Json& size : result.at("results")) {
    for (const auto& [side, found] : size.at("sides").items()) {
      auto it = std::find_if(series.begin(), series.end(),
                             [&, name = side](const PlotSeries& one) { return one.name == name; });
      if (it == series.end()) it = series.insert(series.end(), PlotSeries{side, {}});
      const auto y = found.at(figure).get<double>();
      it->points.push_back({size.at("size_kib").get<double>(), y,
                            std::max(y, high == nullptr ? y : found.at(high).get<double>())});
    }
  }
  return line_plot(title, "KiB", unit, series);
}

std::string collectives_section(const Json& result) {
  const std::string where = cat(result.at("world_size").get<int>(), " ranks, ",
                                result.at("backend").get<std::string>());
  return cat("<p>All-reduce on ", html_escaped(where), "; medians, whiskers to p95. Bus bandwidth: ",
             "bytes / time &times; 2(N-1)/N.</p>\n",
             plot_over_sizes(result, "time of an all-reduce", "ms", "p50_ms", "p95_ms"),
             plot_over_sizes(result, "bus bandwidth", "GB/s", "bus_gb_per_s", nullptr));
}

std::string step_section(const Json& result) {
  const std::vector<std::string> parts = {"compute", "exposed_communication", "update", "loader"};
  std::vector<PlotBar> bars;
  for (const auto& [side, found] : result.at("sides").items()) {
    PlotBar bar{side, {}};
    const bool is_split = found.contains("split_ms");
    for (const std::string& part : parts)
      bar.parts.push_back(is_split ? found["split_ms"].at(part).get<double>() : 0);
    bar.parts.push_back(is_split ? 0 : found.at("step_p50_ms").get<double>());
    bars.push_back(std::move(bar));
  }
  return cat("<p>One step on ", result.at("world_size").get<int>(), " ranks, ",
             html_escaped(result.at("recipe").get<std::string>()), "; medians of rank 0.</p>\n",
             bar_plot("a step", "ms", {"compute", "exposed comm.", "update", "loader", "not split"}, bars));
}

std::string section_of(const NamedText& file) {
  std::string body;
  try {
    const Json result = Json::parse(file.second);
    const std::string kind = result.is_object() ? result.value("benchmark", "") : "";
    if (kind == "collectives") {
      body = collectives_section(result);
    } else if (kind == "step") {
      body = step_section(result);
    } else {
      body = "<p>not a result of <code>lockstep bench</code></p>\n";
    }
  } catch (const std::exception& error) {
    body = cat("<p>can't be shown: ", html_escaped(error.what()), "</p>\n");
  }
  return cat("<h2>", html_escaped(file.first), "</h2>\n", body);
}

}  // namespace

std::string report_page(const std::vector<NamedText>& results) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Lockstep "
      "benchmarks</title>\n<style>body{font-family:sans-serif;max-width:44em;margin:2em "
      "auto}svg{display:block;margin:1em 0}</style></head>\n<body><h1>Lockstep benchmarks</h1>\n";
  for (const NamedText& file : results) page += section_of(file);
  return page + "</body></html>\n";
}

Result<std::string> write_report_page(const std::string& folder) {
  FileSystem& fs = posix_file_system();
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs.list(folder));
  std::vector<NamedText> results;
  for (const DirectoryEntry& entry : entries) {
    if (entry.type == FileType::kDirectory || !entry.name.ends_with(".json")) continue;
    LOCKSTEP_ASSIGN_OR_RETURN(
        std::string text, read_whole_file(fs, path_join(folder, entry.name), kMaxResultBytes));
    results.emplace_back(entry.name, std::move(text));
  }
  if (results.empty()) {
    return invalid_argument_error(
        cat(folder, " has no .json file; lockstep bench collectives --out FILE writes one"));
  }
  std::sort(results.begin(), results.end());
  const std::string path = path_join(folder, "index.html");
  LOCKSTEP_RETURN_IF_ERROR(
      write_and_sync_file(fs, path, report_page(results), OpenMode::kTruncate));
  return path;
}

}  // namespace lockstep
