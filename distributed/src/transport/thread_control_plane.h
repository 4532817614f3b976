#pragma once
// The control plane of ranks that are threads of one process.

#include <memory>
#include <string>

#include "lockstep/distributed/control_plane.h"
#include "thread_hub.h"

namespace lockstep {

class ThreadControlPlane final : public ControlPlane {
 public:
  ThreadControlPlane(std::shared_ptr<ThreadHub> hub, int world_rank, std::string name);

  Result<std::vector<std::string>> all_gather(std::string_view what, std::string message,
                                              Deadline deadline) override;
  void begin_series() override;
  std::vector<int> lost_ranks() const override;
  Result<std::unique_ptr<ControlPlane>> split(std::string_view name, Deadline deadline) override;
  Status shutdown(Deadline deadline) override;

 private:
  std::shared_ptr<ThreadHub> hub_;
  std::string name_;
  uint64_t num_rounds_ = 0;
  int num_splits_ = 0;
  Status failure_;
};

}  // namespace lockstep
