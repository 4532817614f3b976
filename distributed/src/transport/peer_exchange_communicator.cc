#include "peer_exchange_communicator.h"

#include <algorithm>
#include <array>

#include "lockstep/core/base/check.h"

namespace lockstep {

Status PeerExchangeCommunicator::all_gather(std::span<const std::byte> in, std::span<std::byte> out,
                                            std::string_view what, Deadline deadline) {
  auto size = static_cast<size_t>(world_size());
  LOCKSTEP_CHECK(out.size() == in.size() * size, "all_gather of ", in.size(), " bytes over ", size,
                 " ranks into ", out.size(), " bytes");
  auto own_place = out.subspan(in.size() * static_cast<size_t>(world_rank()), in.size());
  if (in.data() != own_place.data()) std::copy(in.begin(), in.end(), own_place.begin());
  sends_.clear();
  recvs_.clear();
  for (size_t distance = 1; distance < size; ++distance) {
    // Each rank begins with another peer, so that no rank is everyone's first.
    size_t peer = (static_cast<size_t>(world_rank()) + distance) % size;
    sends_.push_back({static_cast<int>(peer), in});
    recvs_.push_back({static_cast<int>(peer), out.subspan(in.size() * peer, in.size())});
  }
  return exchange(sends_, recvs_, nullptr, what, deadline);
}

Status PeerExchangeCommunicator::broadcast(std::span<std::byte> bytes, int root,
                                           std::string_view what, Deadline deadline) {
  int size = world_size();
  LOCKSTEP_CHECK(root >= 0 && root < size, "root ", root, " of ", size);
  // Binomial tree over the distance from the root: a rank's parent lacks its lowest set bit.
  int distance = (world_rank() - root + size) % size;
  int lowest_bit = 1;
  while (lowest_bit < size && (distance & lowest_bit) == 0) lowest_bit <<= 1;
  if (distance != 0) {
    std::array<RecvOp, 1> recv{{{(distance - lowest_bit + root) % size, bytes}}};
    LOCKSTEP_RETURN_IF_ERROR(exchange({}, recv, nullptr, what, deadline));
  }
  sends_.clear();
  for (int bit = lowest_bit >> 1; bit > 0; bit >>= 1) {
    if (distance + bit < size) sends_.push_back({(distance + bit + root) % size, bytes});
  }
  return exchange(sends_, {}, nullptr, what, deadline);
}

Status PeerExchangeCommunicator::barrier(std::string_view what, Deadline deadline) {
  return all_gather({}, {}, what, deadline);
}

void PeerExchangeCommunicator::check_ops(std::span<const SendOp> sends,
                                         std::span<const RecvOp> recvs) const {
  auto check = [&](int peer) {
    LOCKSTEP_CHECK(peer >= 0 && peer < world_size() && peer != world_rank(), "rank ", world_rank(),
                   " of ", world_size(), " exchanges with rank ", peer);
  };
  for (const SendOp& op : sends) check(op.peer);
  for (const RecvOp& op : recvs) check(op.peer);
}

Status PeerExchangeCommunicator::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

Status PeerExchangeCommunicator::fail(Status status) {
  std::lock_guard lock(mutex_);
  if (failure_.is_ok()) failure_ = std::move(status);
  return failure_;
}

}  // namespace lockstep
