// parse_csv: text to numbers.

#include <charconv>
#include <cmath>
#include <unordered_set>

#include "lockstep/core/base/text.h"
#include "lockstep/core/data/csv.h"

namespace lockstep {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// Takes the first line off `text`, without its end of line.
std::string_view take_line(std::string_view& text) {
  size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

Status parse_header(std::string_view line, const std::string& path, CsvTable& table) {
  if (trim(line).empty())
    return corruption_error(cat(path, ":1: expected a header of column names, found nothing"));
  std::unordered_set<std::string> seen;
  for (const std::string& field : split(line, ',')) {
    std::string name(trim(field));
    if (name.empty())
      return corruption_error(cat(path, ":1: column ", table.columns.size() + 1, " has no name"));
    if (!seen.insert(name).second)
      return corruption_error(cat(path, ":1: two columns are named '", name, "'"));
    table.columns.push_back(std::move(name));
  }
  return Status::ok();
}

Status parse_row(std::string_view line, const std::string& where, CsvTable& table) {
  size_t num_columns = table.columns.size();
  size_t column = 0;
  for (bool is_last = false; !is_last; ++column) {
    size_t comma = line.find(',');
    is_last = comma == std::string_view::npos;
    std::string_view field = trim(line.substr(0, comma));
    line.remove_prefix(is_last ? line.size() : comma + 1);
    if (column >= num_columns) continue;
    double value = 0;
    auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    if (error != std::errc() || end != field.data() + field.size() || !std::isfinite(value))
      return corruption_error(cat(where, ": column '", table.columns[column],
                                  "': expected a number, found '", field.substr(0, 40), "'"));
    table.values.push_back(value);
  }
  if (column < num_columns)
    return corruption_error(cat(where, ": expected ", num_columns,
                                " columns as in the header, found ", column,
                                "; the first one missing is '", table.columns[column], "'"));
  if (column > num_columns)
    return corruption_error(
        cat(where, ": expected ", num_columns, " columns as in the header, found ", column));
  return Status::ok();
}

}  // namespace

Result<CsvTable> parse_csv(std::string_view text, const std::string& path) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  size_t last = text.find_last_not_of(" \t\r\n");
  text = last == std::string_view::npos ? std::string_view() : text.substr(0, last + 1);
  CsvTable table;
  LOCKSTEP_RETURN_IF_ERROR(parse_header(take_line(text), path, table));
  for (int64_t line_number = 2; !text.empty(); ++line_number, ++table.num_rows)
    LOCKSTEP_RETURN_IF_ERROR(parse_row(take_line(text), cat(path, ":", line_number), table));
  if (table.num_rows == 0)
    return corruption_error(cat(path, ": expected rows after the header, found none"));
  return table;
}

}  // namespace lockstep
