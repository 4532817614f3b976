#include "loss_callback.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "lockstep/core/base/text.h"

namespace lockstep {

void LossCallback::install(std::function<void(int)> callback,
                           const std::function<std::vector<int>()>& lost_ranks) {
  std::lock_guard lock(mutex_);
  callback_ = std::move(callback);
  told_.clear();
  for (int rank : lost_ranks()) tell_locked(rank);
}

Status LossCallback::report(int world_rank) {
  std::lock_guard lock(mutex_);
  try {
    tell_locked(world_rank);
    return Status::ok();
  } catch (const std::exception& error) {
    return internal_error(cat("the callback for lost ranks threw: ", error.what()));
  } catch (...) {
    return internal_error("the callback for lost ranks threw");
  }
}

void LossCallback::tell_locked(int world_rank) {
  if (std::find(told_.begin(), told_.end(), world_rank) != told_.end()) return;
  told_.push_back(world_rank);
  if (callback_) callback_(world_rank);
}

}  // namespace lockstep
