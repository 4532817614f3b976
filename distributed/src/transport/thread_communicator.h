#pragma once
// The data path between ranks that are threads of one process.

#include <memory>

#include "peer_exchange_communicator.h"
#include "thread_hub.h"

namespace lockstep {

class ThreadCommunicator final : public PeerExchangeCommunicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadHub> hub, int world_rank);

  Status exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                  OnReceived on_received, std::string_view what, Deadline deadline) override;
  /// Adds in rank order.
  Status native_all_reduce_sum(float* values, int64_t num_elems, Deadline deadline) override;
  Status native_all_reduce_sum(double* values, int64_t num_elems, Deadline deadline) override;
  void abort(std::string_view reason) override;
  std::string_view backend() const override { return "threads"; }

 private:
  Status exchange_uncounted(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                            OnReceived on_received, std::string_view what, Deadline deadline);
  template <typename T>
  Status all_reduce(T* values, int64_t num_elems, Deadline deadline);

  std::shared_ptr<ThreadHub> hub_;
};

}  // namespace lockstep
