#pragma once
// What the save and restore protocols say to each other over a ControlPlane: packed fields, and
// errors as values.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/checkpoint/shard_file.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/control_plane.h"

namespace lockstep {

/// Appends fields to a message.
class Packer {
 public:
  Packer& number(uint64_t value);
  Packer& text(std::string_view value);
  Packer& hash(const Hash128& value) { return number(value.high).number(value.low); }
  Packer& status(const Status& value);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads fields in the order in which they were appended; past the end it gives zeros and
/// is_whole() is false.
class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : rest_(bytes) {}
  uint64_t number();
  std::string text();
  Hash128 hash();
  Status status();
  bool is_whole() const { return good_ && rest_.empty(); }
  bool good() const { return good_; }

 private:
  std::string_view rest_;
  bool good_ = true;
};

void pack_runs(const std::vector<KindRuns>& all, Packer* packer);
std::vector<KindRuns> unpack_runs(Unpacker* unpacker);

/// Rank 0's value, or its error, on every rank; the others pass nothing of their own.
/// Collective. Errors: rank 0's; as ControlPlane::all_gather.
Result<std::string> share(ControlPlane& plane, std::string_view what,
                          const Result<std::string>& of_rank_0, Deadline deadline);
/// As share() for texts that may be longer than one message.
Result<std::string> share_long(ControlPlane& plane, std::string_view what,
                               const Result<std::string>& of_rank_0, Deadline deadline);

/// For one of several waits for peers that have `whole_s` together, since `start`: at most
/// `seconds`, at least a quarter of it (a rank that itself came late must not blame the others).
Deadline deadline_within(const Stopwatch& start, double whole_s, double seconds);

}  // namespace lockstep
