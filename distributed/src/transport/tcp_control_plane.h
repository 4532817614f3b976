#pragma once
// TcpControlPlane: the control plane of ranks that are processes: a star of TCP connections around
// rank 0, served by one background thread a plane, so that a dead peer is noticed while its rank's
// own thread computes or is stuck in MPI. Rank 0 tells all others at once whose connection closed.
// asio stays in the source files.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/distributed/control_plane.h"

namespace lockstep {

class TcpControlPlane final : public ControlPlane {
 public:
  /// Carries rank 0's text to every rank, once, by other means.
  using FirstBroadcast = std::function<Result<std::string>(std::string text_of_rank_0)>;

  /// Rank 0 listens on a port of each of `listen_addresses` until all ranks have come; whoever does
  /// not present the token that went over `broadcast` is dropped. Collective: all ranks. Errors:
  /// kTimeout naming the ranks that did not come, kIoError when rank 0 can't listen; as
  /// `broadcast`.
  static Result<std::unique_ptr<TcpControlPlane>> connect(int world_rank, int world_size,
                                                          std::vector<std::string> listen_addresses,
                                                          const FirstBroadcast& broadcast,
                                                          Deadline deadline);
  ~TcpControlPlane() override;

  Result<std::vector<std::string>> all_gather(std::string_view what, std::string message,
                                              Deadline deadline) override;
  void begin_series() override;
  std::vector<int> lost_ranks() const override;
  Result<std::unique_ptr<ControlPlane>> split(std::string_view name, Deadline deadline) override;
  Status shutdown(Deadline deadline) override;
  /// As World::on_peer_lost.
  void on_peer_lost(std::function<void(int)> callback);

 private:
  struct Impl;
  TcpControlPlane(int world_rank, int world_size, std::vector<std::string> listen_addresses);
  Status start(const FirstBroadcast& broadcast, Deadline deadline);
  Result<std::vector<std::string>> gather(std::string_view what, std::string message, bool is_last,
                                          Deadline deadline);

  std::vector<std::string> listen_addresses_;
  uint64_t num_rounds_ = 0;
  Status failure_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
