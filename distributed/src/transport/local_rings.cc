#include "local_rings.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/base/text.h"

namespace lockstep {

void LocalRings::attach(int world_rank, std::span<std::byte* const> segments,
                        std::span<const int> world_ranks, size_t max_message_bytes) {
  max_message_bytes_ = max_message_bytes;
  size_t mine = static_cast<size_t>(std::find(world_ranks.begin(), world_ranks.end(), world_rank) -
                                    world_ranks.begin());
  for (size_t i = 0; i < segments.size(); ++i) {
    if (i == mine) continue;
    auto peer = static_cast<size_t>(world_ranks[i]);
    to_[peer] = SharedRing(segments[i] + mine * SharedRing::bytes_needed());
    from_[peer] = SharedRing(segments[mine] + i * SharedRing::bytes_needed());
    from_[peer].format();
  }
}

LocalRings::Way& LocalRings::Ways::of(int peer) {
  for (Way& way : used()) {
    if (way.peer == peer) return way;
  }
  if (num_used_ == ways_.size()) ways_.emplace_back();
  Way& way = ways_[num_used_++];
  way.peer = peer;
  way.ops.clear();
  way.next = 0;
  way.offset_bytes = 0;
  return way;
}

void LocalRings::begin(std::span<const SendOp> sends, std::span<const RecvOp> recvs) {
  sends_ = sends;
  recvs_ = recvs;
  out_.clear();
  in_.clear();
  num_left_ = 0;
  for (size_t i = 0; i < sends.size(); ++i) {
    if (!carries(sends[i].peer, sends[i].bytes.size())) continue;
    out_.of(sends[i].peer).ops.push_back(i);
    ++num_left_;
  }
  for (size_t i = 0; i < recvs.size(); ++i) {
    if (!carries(recvs[i].peer, recvs[i].bytes.size())) continue;
    in_.of(recvs[i].peer).ops.push_back(i);
    ++num_left_;
  }
}

Status LocalRings::progress(OnReceived on_received, int world_rank, std::string_view what,
                            bool* has_moved) {
  for (Way& way : out_.used()) *has_moved = push(way) || *has_moved;
  for (Way& way : in_.used()) {
    LOCKSTEP_RETURN_IF_ERROR(pull(way, on_received, world_rank, what, has_moved));
  }
  return Status::ok();
}

bool LocalRings::push(Way& way) {
  if (way.is_done()) return false;
  SharedRing& ring = to_[static_cast<size_t>(way.peer)];
  std::span<std::byte> slot = ring.free_slot();
  if (slot.empty()) return false;
  std::span<const std::byte> message = sends_[way.ops[way.next]].bytes;
  size_t num_bytes = std::min(slot.size(), message.size() - way.offset_bytes);
  if (num_bytes > 0) std::memcpy(slot.data(), message.data() + way.offset_bytes, num_bytes);
  ring.publish(num_bytes, message.size());
  way.offset_bytes += num_bytes;
  if (way.offset_bytes == message.size()) {
    way.offset_bytes = 0;
    ++way.next;
    --num_left_;
  }
  return true;
}

Status LocalRings::pull(Way& way, OnReceived on_received, int world_rank, std::string_view what,
                        bool* has_moved) {
  if (way.is_done()) return Status::ok();
  SharedRing& ring = from_[static_cast<size_t>(way.peer)];
  SharedRing::Fragment fragment;
  if (!ring.front(&fragment)) return Status::ok();
  size_t index = way.ops[way.next];
  std::span<std::byte> message = recvs_[index].bytes;
  if (fragment.message_bytes != message.size()) {
    return invalid_argument_error(cat(what, ": rank ", world_rank, " expects ", message.size(),
                                      " bytes from rank ", way.peer, ", which sent ",
                                      fragment.message_bytes));
  }
  if (!fragment.bytes.empty()) {
    std::memcpy(message.data() + way.offset_bytes, fragment.bytes.data(), fragment.bytes.size());
  }
  ring.pop();
  *has_moved = true;
  way.offset_bytes += fragment.bytes.size();
  if (way.offset_bytes < message.size()) return Status::ok();
  way.offset_bytes = 0;
  ++way.next;
  --num_left_;
  if (on_received) on_received(index);
  return Status::ok();
}

std::vector<int> LocalRings::peers_waited_for() const {
  std::vector<int> peers;
  for (const Way& way : out_.used()) {
    if (!way.is_done()) peers.push_back(way.peer);
  }
  for (const Way& way : in_.used()) {
    if (!way.is_done()) peers.push_back(way.peer);
  }
  return peers;
}

}  // namespace lockstep
