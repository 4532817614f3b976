// Lines: one a tensor when they fit, else neighbours of one space share a line, cut where their
// dotted names change as far up as gives enough lines. Columns: one a rank, else equal groups.
#include <algorithm>

#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "ownership.h"

namespace lockstep {
namespace {

/// Tensors [first, end) of the ownership on one line; all of one space.
struct Row {
  size_t first = 0;
  size_t end = 0;
};

/// The first `depth` parts of a dotted name.
std::string_view prefix_of(std::string_view name, size_t depth) {
  size_t at = 0;
  while (depth-- > 0) {
    at = name.find('.', at);
    if (at == std::string_view::npos) return name;
    ++at;
  }
  return name.substr(0, at);
}

std::vector<Row> rows_by_prefix(const Ownership& ownership, size_t depth) {
  std::vector<Row> rows;
  const auto& tensors = ownership.tensors;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool goes_on = i > 0 && tensors[i].space == tensors[i - 1].space &&
                         prefix_of(tensors[i].place->spec.name, depth) ==
                             prefix_of(tensors[i - 1].place->spec.name, depth);
    if (!goes_on) rows.push_back({i, i});
    rows.back().end = i + 1;
  }
  return rows;
}

std::vector<Row> plan_rows(const Ownership& ownership, size_t max_rows) {
  std::vector<Row> rows;
  for (size_t i = 0; i < ownership.tensors.size(); ++i) rows.push_back({i, i + 1});
  if (rows.size() <= max_rows) return rows;
  constexpr size_t kMaxDepth = 8;
  for (size_t depth = 1; depth <= kMaxDepth; ++depth) {
    std::vector<Row> grouped = rows_by_prefix(ownership, depth);
    const bool is_enough = grouped.size() * 2 >= max_rows;
    if (is_enough || depth == kMaxDepth) rows = std::move(grouped);
    if (is_enough) break;
  }
  // Still too many: as many neighbours on a line as it takes, unless another space begins.
  const size_t share = (rows.size() + max_rows - 1) / max_rows;
  std::vector<Row> merged;
  size_t num_on_line = 0;
  for (const Row& row : rows) {
    const bool goes_on =
        !merged.empty() && num_on_line < share &&
        ownership.tensors[merged.back().first].space == ownership.tensors[row.first].space;
    if (goes_on) {
      merged.back().end = row.end;
      ++num_on_line;
    } else {
      merged.push_back(row);
      num_on_line = 1;
    }
  }
  return merged;
}

std::string row_name(const Ownership& ownership, const Row& row) {
  const TensorSpec& first = ownership.tensors[row.first].place->spec;
  if (row.end == row.first + 1) return cat(first.name, " ", shape_text(first.shape));
  const TensorSpec& last = ownership.tensors[row.end - 1].place->spec;
  return cat(first.name, " .. ", last.name, " (", row.end - row.first, ")");
}

/// At most `width` characters of UTF-8 that is ASCII, or nearly so; the middle goes first.
std::string fit(std::string text, size_t width) {
  if (text.size() <= width) return text + std::string(width - text.size(), ' ');
  const size_t tail = (width - 2) / 2;
  size_t head = width - 2 - tail;
  size_t rest = text.size() - tail;
  // Not in the middle of a character.
  while (head > 0 && (static_cast<unsigned char>(text[head]) & 0xC0) == 0x80) --head;
  while (rest < text.size() && (static_cast<unsigned char>(text[rest]) & 0xC0) == 0x80) ++rest;
  return cat(text.substr(0, head), "..", text.substr(rest));
}

char cell_of(uint64_t held, uint64_t whole) {
  if (held == 0) return '.';
  if (held == whole) return '#';
  const auto tenths = static_cast<int>(static_cast<double>(held) * 10 / static_cast<double>(whole));
  return tenths == 0 ? '+' : static_cast<char>('0' + std::min(tenths, 9));
}

std::string cells_of(const Ownership& ownership, const Row& row, size_t ranks_a_column) {
  const size_t num_ranks = ownership.shard_bytes.size();
  std::vector<uint64_t> held((num_ranks + ranks_a_column - 1) / ranks_a_column, 0);
  uint64_t whole = 0;
  for (size_t i = row.first; i < row.end; ++i) {
    whole += ownership.tensors[i].bytes;
    for (const auto& [shard, bytes] : ownership.tensors[i].owners)
      held[shard / ranks_a_column] += bytes;
  }
  std::string cells;
  for (uint64_t bytes : held) cells += cell_of(bytes, whole);
  return cells;
}

std::string balance_text(const std::vector<uint64_t>& shard_bytes) {
  if (shard_bytes.empty()) return {};
  const auto [least, most] = std::minmax_element(shard_bytes.begin(), shard_bytes.end());
  uint64_t total = 0;
  for (uint64_t bytes : shard_bytes) total += bytes;
  const double mean = static_cast<double>(total) / static_cast<double>(shard_bytes.size());
  return cat("state a rank: least ", human_bytes(*least), " (rank ", least - shard_bytes.begin(),
             "), most ", human_bytes(*most), " (rank ", most - shard_bytes.begin(),
             "), most / mean ", fixed(mean > 0 ? static_cast<double>(*most) / mean : 1, 3), "\n");
}

}  // namespace

std::string ownership_picture(const Ownership& ownership, const PictureSize& size) {
  constexpr size_t kNameWidth = 44;
  constexpr size_t kBytesWidth = 11;
  const size_t num_ranks = ownership.shard_bytes.size();
  const size_t ranks_a_column = (num_ranks + size.max_columns - 1) / size.max_columns;
  std::string out =
      cat("who owns what: a line is a tensor, a column ",
          ranks_a_column == 1 ? std::string("a rank") : cat(ranks_a_column, " ranks"), " of 0..",
          num_ranks - 1, "; # holds all of it, 1-9 so many tenths, + less, . nothing\n");
  const FlatSpace* space = nullptr;
  for (const Row& row : plan_rows(ownership, size.max_rows)) {
    const TensorOwners& first = ownership.tensors[row.first];
    if (first.space != space) out += cat(first.space->name, "\n");
    space = first.space;
    uint64_t bytes = 0;
    for (size_t i = row.first; i < row.end; ++i) bytes += ownership.tensors[i].bytes;
    std::string bytes_text = human_bytes(bytes);
    bytes_text.insert(0, kBytesWidth - std::min(kBytesWidth, bytes_text.size()), ' ');
    out += cat("  ", fit(row_name(ownership, row), kNameWidth), bytes_text, "  ",
               cells_of(ownership, row, ranks_a_column), "\n");
  }
  return out + balance_text(ownership.shard_bytes);
}

}  // namespace lockstep
