#include "lockstep/core/train/save_record.h"

#include <algorithm>

namespace lockstep {

std::string_view save_word_text(SaveWord word) {
  switch (word) {
    case SaveWord::kStaged:
      return "staged";
    case SaveWord::kWritten:
      return "written";
    case SaveWord::kDurable:
      return "durable";
    case SaveWord::kFailed:
      return "failed";
    case SaveWord::kUnknown:
      return "unknown";
  }
  return "unknown";
}

SaveWord SaveRecord::word() const {
  LOCKSTEP_CHECK(!is_skipped, "a save that was left out came to nothing");
  if (is_unknown) return SaveWord::kUnknown;
  return status.is_ok() ? SaveWord::kDurable : SaveWord::kFailed;
}

std::optional<SaveSpread> spread_of(const SaveFigures& figures) {
  SaveSpread spread;
  std::vector<double> rates;
  uint64_t total = 0, largest = 0;
  for (size_t rank = 0; rank < figures.ranks.size(); ++rank) {
    const RankSaveFigures& each = figures.ranks[rank];
    total += each.bytes;
    largest = std::max(largest, each.bytes);
    if (each.gb_per_s() <= 0) continue;
    rates.push_back(each.gb_per_s());
    if (each.disk_ms() <= spread.slowest_ms) continue;
    spread.slowest_rank = static_cast<int64_t>(rank);
    spread.slowest_ms = each.disk_ms();
    spread.slowest_gb_per_s = each.gb_per_s();
  }
  if (rates.empty()) return std::nullopt;
  std::sort(rates.begin(), rates.end());
  spread.min_gb_per_s = rates.front();
  spread.max_gb_per_s = rates.back();
  const size_t middle = rates.size() / 2;
  spread.median_gb_per_s =
      rates.size() % 2 == 1 ? rates[middle] : (rates[middle - 1] + rates[middle]) / 2;
  if (figures.unique_bytes > 0)
    spread.written_per_unique =
        static_cast<double>(total) / static_cast<double>(figures.unique_bytes);
  spread.largest_per_mean = static_cast<double>(largest) *
                            static_cast<double>(figures.ranks.size()) / static_cast<double>(total);
  return spread;
}

}  // namespace lockstep
