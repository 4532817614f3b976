#pragma once
// A run of numbers, such as micro-batches or evaluation batches. Pure.

#include <cstdint>

namespace lockstep {

/// Numbers [first, end).
struct IndexRange {
  int64_t first = 0;
  int64_t end = 0;
  int64_t size() const { return end - first; }
  bool operator==(const IndexRange&) const = default;
};

}  // namespace lockstep
