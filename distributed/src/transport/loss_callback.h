#pragma once
// LossCallback: whom to tell of lost ranks, and who was told. Thread-safety: any thread; a call of
// the callback is never under way once install() has returned.

#include <functional>
#include <mutex>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

class LossCallback {
 public:
  /// Replaces the callback (empty: nobody is told), after a call that is under way. `lost_ranks`,
  /// asked once the new one is in place, are reported to it at once, on this thread; what it throws
  /// comes out of here. Must not be called by a callback.
  void install(std::function<void(int)> callback,
               const std::function<std::vector<int>()>& lost_ranks);
  /// Tells the callback, unless it knows already. Call after `lost_ranks` has the rank: then a
  /// callback hears of each loss exactly once. Errors: kInternal when the callback throws.
  Status report(int world_rank);

 private:
  void tell_locked(int world_rank);

  std::mutex mutex_;
  std::function<void(int)> callback_;
  std::vector<int> told_;
};

}  // namespace lockstep
