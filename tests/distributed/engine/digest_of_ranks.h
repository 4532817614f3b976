#pragma once
// DigestOfRanks: the state digest of ranks that are threads, computed from what each of them owns.

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "lockstep/core/flat/digest.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

class DigestOfRanks {
 public:
  /// Each rank adds what it owns; every block of every kind must come exactly once.
  void add(const StateSchema& schema, const OwnedState& owned, const Scalars& scalars) {
    std::lock_guard lock(mutex_);
    schema_ = schema;
    scalars_ = scalars;
    for (const StateSlice& slice : owned.slices) {
      const FlatSpace* space = schema.layout.find(slice.kind.space);
      ASSERT_NE(space, nullptr);
      std::vector<uint64_t> hashes(static_cast<size_t>(slice.blocks.num_blocks()));
      hash_blocks(*space, slice.blocks, slice.bytes, hashes);
      for (int64_t b = slice.blocks.first; b < slice.blocks.end; ++b) {
        auto [it, is_new] = hashes_.emplace(std::tuple(slice.kind.space, slice.kind.kind, b),
                                            hashes[static_cast<size_t>(b - slice.blocks.first)]);
        EXPECT_TRUE(is_new) << "owned twice: " << slice.kind.space << " " << slice.kind.kind
                            << " block " << b;
      }
    }
  }

  std::string hex() const {
    std::vector<std::vector<uint64_t>> by_kind;
    for (const StateKind& kind : schema_.kinds) {
      auto& hashes = by_kind.emplace_back();
      int64_t n = schema_.layout.find(kind.space)->num_blocks();
      for (int64_t b = 0; b < n; ++b) {
        auto it = hashes_.find(std::tuple(kind.space, kind.kind, b));
        EXPECT_NE(it, hashes_.end())
            << "owned by nobody: " << kind.space << " " << kind.kind << " block " << b;
        if (it != hashes_.end()) hashes.push_back(it->second);
      }
    }
    return state_digest(schema_, by_kind, scalars_).hex();
  }

 private:
  std::mutex mutex_;
  StateSchema schema_;
  Scalars scalars_;
  std::map<std::tuple<std::string, std::string, int64_t>, uint64_t> hashes_;
};

}  // namespace lockstep
