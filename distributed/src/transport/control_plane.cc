#include "lockstep/distributed/control_plane.h"

#include <algorithm>
#include <utility>

#include "lockstep/core/base/text.h"
#include "rank_names.h"

namespace lockstep {
namespace {

/// A Status as one message: empty for OK, else the code as a character and the text.
std::string packed(const Status& status) {
  if (status.is_ok()) return {};
  return cat(static_cast<char>('A' + static_cast<int>(status.code())), status.message());
}

/// Requires: text not empty, written by packed().
StatusCode packed_code(const std::string& text) {
  return static_cast<StatusCode>(text[0] - 'A');
}

struct Complaint {
  std::vector<int> ranks;
  std::string message;
};

}  // namespace

Result<std::string> ControlPlane::broadcast(std::string_view what, std::string message_of_rank_0,
                                            Deadline deadline) {
  if (world_rank_ != 0) message_of_rank_0.clear();
  LOCKSTEP_ASSIGN_OR_RETURN(std::vector<std::string> messages,
                            all_gather(what, std::move(message_of_rank_0), deadline));
  return std::move(messages[0]);
}

Status ControlPlane::vote(std::string_view what, const Status& mine, Deadline deadline) {
  LOCKSTEP_ASSIGN_OR_RETURN(std::vector<std::string> votes,
                            all_gather(what, packed(mine), deadline));
  StatusCode code = StatusCode::kOk;
  std::vector<Complaint> complaints;
  for (size_t rank = 0; rank < votes.size(); ++rank) {
    if (votes[rank].empty()) continue;
    if (code == StatusCode::kOk) code = packed_code(votes[rank]);
    std::string message = votes[rank].substr(1);
    auto same = std::find_if(complaints.begin(), complaints.end(),
                             [&](const Complaint& c) { return c.message == message; });
    if (same == complaints.end()) same = complaints.insert(complaints.end(), {{}, message});
    same->ranks.push_back(static_cast<int>(rank));
  }
  std::string text;
  for (const Complaint& complaint : complaints) {
    text += cat(text.empty() ? "" : "; ", ranks_text(complaint.ranks), ": ", complaint.message);
  }
  return Status(code, std::move(text));
}

Status ControlPlane::barrier(std::string_view what, Deadline deadline) {
  return all_gather(what, {}, deadline).status();
}

}  // namespace lockstep
