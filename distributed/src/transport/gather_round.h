#pragma once
// One all-gather of a control plane, as whoever collects it sees it: who has come, with what, from
// where in the program. Pure; not thread-safe.

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

class GatherRound {
 public:
  explicit GatherRound(int world_size)
      : whats_(static_cast<size_t>(world_size)),
        messages_(static_cast<size_t>(world_size)),
        has_arrived_(static_cast<size_t>(world_size)) {}

  /// False when this rank has arrived before.
  bool arrive(int world_rank, std::string_view what, std::string message);
  bool is_complete() const { return num_arrived_ == messages_.size(); }
  /// Ascending.
  std::vector<int> missing() const;
  /// Requires: is_complete(). Errors: kInternal naming two ranks that came from different places.
  Status agreement() const;
  const std::vector<std::string>& messages() const { return messages_; }
  std::vector<std::string> take_messages() { return std::move(messages_); }

 private:
  std::vector<std::string> whats_;
  std::vector<std::string> messages_;
  std::vector<char> has_arrived_;
  size_t num_arrived_ = 0;
};

}  // namespace lockstep
