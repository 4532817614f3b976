#include "plane_inbox.h"

#include <algorithm>

#include "lockstep/core/base/wait.h"
#include "rank_names.h"

namespace lockstep {
namespace {

/// Of the time that is left, for rank 0 to say how a round ended that a rank gave up; and at most
/// so long.
constexpr double kAnswerShare = 0.25;
constexpr double kMaxAnswerTimeS = 2;

}  // namespace

void PlaneInbox::set_ready() {
  std::lock_guard lock(mutex_);
  is_ready_ = true;
  changed_.notify_all();
}

void PlaneInbox::set_drained() {
  std::lock_guard lock(mutex_);
  is_drained_ = true;
  changed_.notify_all();
}

void PlaneInbox::deliver(RoundResult result) {
  std::lock_guard lock(mutex_);
  const uint64_t round = result.round;
  results_.insert_or_assign(round, std::move(result));
  changed_.notify_all();
}

void PlaneInbox::lose(int world_rank) {
  {
    std::lock_guard lock(mutex_);
    if (std::find(lost_.begin(), lost_.end(), world_rank) != lost_.end()) return;
    lost_.push_back(world_rank);
    std::sort(lost_.begin(), lost_.end());
    has_lost_.store(true);
    changed_.notify_all();
  }
  if (Status told = callback_.report(world_rank); !told.is_ok()) fail(std::move(told));
}

void PlaneInbox::fail(Status status) {
  std::lock_guard lock(mutex_);
  if (failure_.is_ok()) failure_ = std::move(status);
  changed_.notify_all();
}

bool PlaneInbox::wait_for_flag(const bool& flag, Deadline deadline) {
  Lock lock(mutex_);
  while (!flag && failure_.is_ok() && !deadline.has_passed()) {
    wait_at_most(changed_, lock, deadline.remaining_s());
  }
  return flag;
}

bool PlaneInbox::wait_until_ready(Deadline deadline) {
  return wait_for_flag(is_ready_, deadline);
}
bool PlaneInbox::wait_until_drained(Deadline deadline) {
  return wait_for_flag(is_drained_, deadline);
}

Result<std::vector<std::string>> PlaneInbox::wait_for(uint64_t round,
                                                      const std::function<void()>& give_up,
                                                      Deadline deadline) {
  const double answer_time_s = std::min(deadline.remaining_s() * kAnswerShare, kMaxAnswerTimeS);
  bool has_given_up = false;
  Lock lock(mutex_);
  while (!results_.contains(round)) {
    LOCKSTEP_RETURN_IF_ERROR(failure_locked());
    if (!has_given_up && deadline.remaining_s() <= answer_time_s) {
      has_given_up = true;
      give_up();
    }
    if (deadline.has_passed()) {
      return timeout_error(
          cat("rank 0 does not answer within ", fixed(deadline.length_s(), 3), " s"));
    }
    wait_at_most(changed_, lock, deadline.remaining_s() - (has_given_up ? 0 : answer_time_s));
  }
  RoundResult result = std::move(results_.at(round));
  results_.erase(results_.begin(), results_.upper_bound(round));
  LOCKSTEP_RETURN_IF_ERROR(result.status);
  return std::move(result.messages);
}

Status PlaneInbox::failure_locked() const {
  if (lost_.empty()) return failure_;
  std::string and_ours = failure_.is_ok() ? std::string() : cat("; ", failure_.message());
  return peer_failure_error(cat("lost ", ranks_text(lost_), and_ours));
}

Status PlaneInbox::failure() const {
  std::lock_guard lock(mutex_);
  return failure_locked();
}

std::vector<int> PlaneInbox::lost_ranks() const {
  if (!has_lost_.load()) return {};
  std::lock_guard lock(mutex_);
  return lost_;
}

void PlaneInbox::on_peer_lost(std::function<void(int)> callback) {
  callback_.install(std::move(callback), [this] { return lost_ranks(); });
}

}  // namespace lockstep
