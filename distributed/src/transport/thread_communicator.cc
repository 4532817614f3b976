#include "thread_communicator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "lockstep/core/flat/vector_ops.h"

namespace lockstep {

ThreadCommunicator::ThreadCommunicator(std::shared_ptr<ThreadHub> hub, int world_rank)
    : PeerExchangeCommunicator(world_rank, hub->world_size()), hub_(std::move(hub)) {}

Status ThreadCommunicator::exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                    OnReceived on_received, std::string_view what,
                                    Deadline deadline) {
  check_ops(sends, recvs);
  LOCKSTEP_RETURN_IF_ERROR(failure());
  for (const SendOp& send : sends) count_sent(send.bytes.size());
  return exchange_uncounted(sends, recvs, on_received, what, deadline);
}

Status ThreadCommunicator::exchange_uncounted(std::span<const SendOp> sends,
                                              std::span<const RecvOp> recvs, OnReceived on_received,
                                              std::string_view what, Deadline deadline) {
  Status status = hub_->exchange(world_rank(), sends, recvs, on_received, what, deadline);
  return status.is_ok() ? status : fail(std::move(status));
}

template <typename T>
Status ThreadCommunicator::all_reduce(T* values, int64_t num_elems, Deadline deadline) {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  auto n = static_cast<size_t>(num_elems);
  count_native_sum(n * sizeof(T));
  std::vector<T> all(n * static_cast<size_t>(world_size()));
  auto of_rank = [&](int rank) { return std::span(all).subspan(static_cast<size_t>(rank) * n, n); };
  std::copy_n(values, n, of_rank(world_rank()).begin());
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < world_size(); ++peer) {
    if (peer == world_rank()) continue;
    sends.push_back({peer, std::as_bytes(of_rank(world_rank()))});
    recvs.push_back({peer, std::as_writable_bytes(of_rank(peer))});
  }
  LOCKSTEP_RETURN_IF_ERROR(
      exchange_uncounted(sends, recvs, nullptr, "native all-reduce", deadline));
  std::copy_n(all.begin(), n, values);
  for (int rank = 1; rank < world_size(); ++rank) {
    add_into(values, of_rank(rank).data(), num_elems);
  }
  return Status::ok();
}

Status ThreadCommunicator::native_all_reduce_sum(float* values, int64_t num_elems,
                                                 Deadline deadline) {
  return all_reduce(values, num_elems, deadline);
}

Status ThreadCommunicator::native_all_reduce_sum(double* values, int64_t num_elems,
                                                 Deadline deadline) {
  return all_reduce(values, num_elems, deadline);
}

void ThreadCommunicator::abort(std::string_view reason) {
  hub_->abort(world_rank(), reason);
  fail(aborted_error(reason.empty() ? "aborted" : cat("aborted: ", reason))).ignore();
}

}  // namespace lockstep
