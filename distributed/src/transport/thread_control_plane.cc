#include "thread_control_plane.h"

#include <utility>

#include "control_protocol.h"

namespace lockstep {

ThreadControlPlane::ThreadControlPlane(std::shared_ptr<ThreadHub> hub, int world_rank,
                                       std::string name)
    : ControlPlane(world_rank, hub->world_size()), hub_(std::move(hub)), name_(std::move(name)) {}

Result<std::vector<std::string>> ThreadControlPlane::all_gather(std::string_view what,
                                                                std::string message,
                                                                Deadline deadline) {
  LOCKSTEP_RETURN_IF_ERROR(failure_);
  LOCKSTEP_CHECK(message.size() <= kMaxControlMessageBytes, what, ": a message of ", message.size(),
                 " bytes");
  auto messages =
      hub_->gather(name_, num_rounds_++, world_rank(), what, std::move(message), deadline);
  if (!messages.is_ok()) failure_ = messages.status();
  return messages;
}

void ThreadControlPlane::begin_series() {
  num_rounds_ = next_series(num_rounds_);
  if (failure_.code() == StatusCode::kTimeout) failure_ = Status::ok();
}

std::vector<int> ThreadControlPlane::lost_ranks() const {
  return hub_->lost_ranks();
}

Result<std::unique_ptr<ControlPlane>> ThreadControlPlane::split(std::string_view name,
                                                                Deadline deadline) {
  LOCKSTEP_RETURN_IF_ERROR(barrier(cat("split of the control plane for ", name), deadline));
  return std::unique_ptr<ControlPlane>(std::make_unique<ThreadControlPlane>(
      hub_, world_rank(), cat(name_, "/", num_splits_++, ":", name)));
}

Status ThreadControlPlane::shutdown(Deadline deadline) {
  Status status = barrier("shutdown of the control plane", deadline);
  failure_ = aborted_error("the control plane was shut down");
  return status;
}

}  // namespace lockstep
