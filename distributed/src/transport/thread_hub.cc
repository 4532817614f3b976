#include "thread_hub.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "control_protocol.h"
#include "lockstep/core/base/wait.h"
#include "rank_names.h"

namespace lockstep {

ThreadHub::ThreadHub(int world_size)
    : world_size_(world_size),
      changed_(static_cast<size_t>(world_size)),
      mailboxes_(static_cast<size_t>(world_size) * static_cast<size_t>(world_size)),
      has_left_(static_cast<size_t>(world_size)),
      is_lost_(static_cast<size_t>(world_size)),
      abort_reasons_(static_cast<size_t>(world_size)),
      callbacks_(static_cast<size_t>(world_size)) {}

std::deque<ThreadHub::Message*>& ThreadHub::mailbox(int from, int to) {
  return mailboxes_[static_cast<size_t>(from * world_size_ + to)];
}

void ThreadHub::wait(Lock& lock, int rank, Deadline deadline) {
  wait_at_most(changed_[static_cast<size_t>(rank)], lock, deadline.remaining_s());
}

std::vector<int> ThreadHub::left_of(const std::vector<int>& ranks) const {
  std::vector<int> lost;
  for (int rank : ranks) {
    if (has_left_[static_cast<size_t>(rank)]) lost.push_back(rank);
  }
  return lost;
}

/// One rank's exchange under way. Its messages point into this object: they are taken back before
/// it ends.
class ThreadHub::ExchangeCall {
 public:
  ExchangeCall(ThreadHub& hub, int rank, std::span<const SendOp> sends,
               std::span<const RecvOp> recvs, std::string_view what)
      : hub_(hub),
        rank_(rank),
        sends_(sends),
        recvs_(recvs),
        what_(what),
        messages_(sends.size()),
        next_recv_of_peer_(static_cast<size_t>(hub.world_size_)),
        recvs_of_peer_(static_cast<size_t>(hub.world_size_)),
        lock_(hub.mutex_) {
    for (size_t i = 0; i < recvs.size(); ++i) {
      recvs_of_peer_[static_cast<size_t>(recvs[i].peer)].push_back(i);
    }
  }

  ExchangeCall(const ExchangeCall&) = delete;
  ExchangeCall& operator=(const ExchangeCall&) = delete;
  /// Nobody may read this rank's memory once the call has returned, or was left by an exception of
  /// on_received.
  ~ExchangeCall() {
    if (!lock_.owns_lock()) lock_.lock();
    take_back();
  }

  Status run(OnReceived on_received, Deadline deadline) {
    post();
    while (true) {
      bool has_moved = false;
      Status status = receive_what_is_there(on_received, &has_moved);
      if (status.is_ok()) status = sent_sizes();
      if (status.is_ok()) {
        std::vector<int> peers = peers_waited_for();
        if (peers.empty()) return status;
        if (has_moved) continue;
        status = reason_to_give_up(peers, deadline);
      }
      if (!status.is_ok()) return status;
      hub_.wait(lock_, rank_, deadline);
    }
  }

 private:
  void post() {
    for (size_t i = 0; i < sends_.size(); ++i) {
      messages_[i].bytes = sends_[i].bytes;
      hub_.mailbox(rank_, sends_[i].peer).push_back(&messages_[i]);
    }
    for (const SendOp& send : sends_) {
      hub_.changed_[static_cast<size_t>(send.peer)].notify_all();
    }
  }

  Status receive_what_is_there(OnReceived on_received, bool* has_moved) {
    for (int peer = 0; peer < hub_.world_size_; ++peer) {
      auto& mine = recvs_of_peer_[static_cast<size_t>(peer)];
      size_t& next = next_recv_of_peer_[static_cast<size_t>(peer)];
      auto& mailbox = hub_.mailbox(peer, rank_);
      while (next < mine.size() && !mailbox.empty()) {
        Message& message = *mailbox.front();
        mailbox.pop_front();
        size_t index = mine[next++];
        std::span<std::byte> into = recvs_[index].bytes;
        if (message.bytes.size() != into.size()) {
          message.expected_bytes = into.size();
          finish(message, Delivery::kOtherSize, peer);
          return invalid_argument_error(cat(what_, ": rank ", rank_, " expects ", into.size(),
                                            " bytes from rank ", peer, ", which sent ",
                                            message.bytes.size()));
        }
        message.delivery = Delivery::kCopying;
        lock_.unlock();
        if (!into.empty()) std::memcpy(into.data(), message.bytes.data(), into.size());
        lock_.lock();
        finish(message, Delivery::kDone, peer);
        *has_moved = true;
        if (on_received) {
          lock_.unlock();
          on_received(index);
          lock_.lock();
        }
      }
    }
    return Status::ok();
  }

  void finish(Message& message, Delivery delivery, int sender) {
    message.delivery = delivery;
    hub_.changed_[static_cast<size_t>(sender)].notify_all();
  }

  Status sent_sizes() const {
    for (size_t i = 0; i < sends_.size(); ++i) {
      if (messages_[i].delivery != Delivery::kOtherSize) continue;
      return invalid_argument_error(cat(what_, ": rank ", sends_[i].peer, " expects ",
                                        messages_[i].expected_bytes, " bytes from rank ", rank_,
                                        ", which sent ", sends_[i].bytes.size()));
    }
    return Status::ok();
  }

  std::vector<int> peers_waited_for() const {
    std::vector<int> peers;
    for (int peer = 0; peer < hub_.world_size_; ++peer) {
      auto p = static_cast<size_t>(peer);
      if (next_recv_of_peer_[p] < recvs_of_peer_[p].size()) peers.push_back(peer);
    }
    for (size_t i = 0; i < sends_.size(); ++i) {
      if (messages_[i].delivery != Delivery::kDone) peers.push_back(sends_[i].peer);
    }
    std::sort(peers.begin(), peers.end());
    peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
    return peers;
  }

  Status reason_to_give_up(const std::vector<int>& peers, Deadline deadline) const {
    const std::string& reason = hub_.abort_reasons_[static_cast<size_t>(rank_)];
    if (!reason.empty()) return aborted_error(cat(what_, ": ", reason));
    if (std::vector<int> lost = hub_.left_of(peers); !lost.empty()) {
      return peer_failure_error(cat(what_, ": lost ", ranks_text(lost)));
    }
    if (deadline.has_passed()) {
      return timeout_error(cat(what_, ": no progress with ", ranks_text(peers), " within ",
                               fixed(deadline.length_s(), 3), " s"));
    }
    return Status::ok();
  }

  void take_back() {
    for (size_t i = 0; i < sends_.size(); ++i) {
      if (messages_[i].delivery != Delivery::kPosted) continue;
      std::erase(hub_.mailbox(rank_, sends_[i].peer), &messages_[i]);
    }
    auto is_copying = [](const Message& m) { return m.delivery == Delivery::kCopying; };
    while (std::any_of(messages_.begin(), messages_.end(), is_copying)) {
      hub_.changed_[static_cast<size_t>(rank_)].wait(lock_);  // for the end of a memcpy
    }
  }

  ThreadHub& hub_;
  const int rank_;
  std::span<const SendOp> sends_;
  std::span<const RecvOp> recvs_;
  std::string_view what_;
  std::vector<Message> messages_;
  std::vector<size_t> next_recv_of_peer_;
  std::vector<std::vector<size_t>> recvs_of_peer_;
  Lock lock_;
};

Status ThreadHub::exchange(int rank, std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                           OnReceived on_received, std::string_view what, Deadline deadline) {
  return ExchangeCall(*this, rank, sends, recvs, what).run(on_received, deadline);
}

void ThreadHub::abort(int rank, std::string_view reason) {
  std::lock_guard lock(mutex_);
  std::string& kept = abort_reasons_[static_cast<size_t>(rank)];
  if (kept.empty()) kept = reason.empty() ? "aborted" : cat("aborted: ", reason);
  changed_[static_cast<size_t>(rank)].notify_all();
}

Result<std::vector<std::string>> ThreadHub::gather(const std::string& plane, uint64_t round_number,
                                                   int rank, std::string_view what,
                                                   std::string message, Deadline deadline) {
  Lock lock(mutex_);
  Series& newest = series_[plane];
  const uint64_t own_series = series_of(round_number);
  if (own_series > newest.number) {
    newest = {own_series, Status::ok()};
    std::erase_if(rounds_, [&](const auto& item) {
      return item.first.first == plane && series_of(item.first.second) < own_series;
    });
    for (auto& changed : changed_) changed.notify_all();
  }
  if (own_series < newest.number) {
    return timeout_error(cat(what, ": rank ", rank, " came too late: the others had given up"));
  }
  LOCKSTEP_RETURN_IF_ERROR(newest.given_up.with_context(what));
  auto key = std::pair(plane, round_number);
  std::shared_ptr<Round>& slot = rounds_[key];
  if (slot == nullptr) slot = std::make_shared<Round>(Round{.arrivals = GatherRound(world_size_)});
  std::shared_ptr<Round> round = slot;
  LOCKSTEP_CHECK(round->arrivals.arrive(rank, what, std::move(message)), "rank ", rank,
                 " came twice to round ", round_number);
  if (round->arrivals.is_complete()) {
    for (auto& changed : changed_) changed.notify_all();
  }
  while (!round->arrivals.is_complete()) {
    LOCKSTEP_RETURN_IF_ERROR(reason_to_give_up(*round, what, deadline, newest, own_series));
    wait(lock, rank, deadline);
  }
  if (++round->num_taken == world_size_) rounds_.erase(key);
  LOCKSTEP_RETURN_IF_ERROR(round->arrivals.agreement());
  return round->arrivals.messages();
}

Status ThreadHub::reason_to_give_up(Round& round, std::string_view what, Deadline deadline,
                                    Series& newest, uint64_t own_series) {
  std::vector<int> missing = round.arrivals.missing();
  if (std::vector<int> left = left_of(missing); !left.empty()) {
    return peer_failure_error(cat(what, ": lost ", ranks_text(left)));
  }
  LOCKSTEP_RETURN_IF_ERROR(round.given_up.with_context(what));
  if (own_series < newest.number)
    return timeout_error(cat(what, ": another rank gave this up and went on"));
  if (!deadline.has_passed()) return Status::ok();
  newest.given_up = round.given_up =
      timeout_error(cat(ranks_text(missing), " did not arrive in time"));
  for (auto& changed : changed_) changed.notify_all();
  return timeout_error(cat(what, ": ", ranks_text(missing), " did not arrive within ",
                           fixed(deadline.length_s(), 3), " s"));
}

void ThreadHub::leave(int rank, bool on_purpose) {
  on_peer_lost(rank, nullptr);
  {
    std::lock_guard lock(mutex_);
    has_left_[static_cast<size_t>(rank)] = 1;
    if (!on_purpose) is_lost_[static_cast<size_t>(rank)] = 1;
    for (auto& changed : changed_) changed.notify_all();
  }
  if (on_purpose) return;
  for (int peer = 0; peer < world_size_; ++peer) {
    Status told = callbacks_[static_cast<size_t>(peer)].report(rank);
    if (!told.is_ok()) abort(peer, told.message());
  }
}

std::vector<int> ThreadHub::lost_ranks() const {
  std::lock_guard lock(mutex_);
  std::vector<int> lost;
  for (int rank = 0; rank < world_size_; ++rank) {
    if (is_lost_[static_cast<size_t>(rank)]) lost.push_back(rank);
  }
  return lost;
}

void ThreadHub::on_peer_lost(int rank, std::function<void(int)> callback) {
  callbacks_[static_cast<size_t>(rank)].install(std::move(callback),
                                                [this] { return lost_ranks(); });
}

}  // namespace lockstep
