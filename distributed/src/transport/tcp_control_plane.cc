#include "tcp_control_plane.h"

#include <utility>

#include "lockstep/core/base/check.h"
#include "plane_end.h"
#include "plane_thread.h"
#include "rank_names.h"

namespace lockstep {

/// Declared so that the end, with its sockets, goes before the io_context.
struct TcpControlPlane::Impl {
  PlaneInbox inbox;
  PlaneThread thread{inbox};
  std::unique_ptr<PlaneEnd> end;

  /// Ends the thread and closes the connections. Sends nothing.
  void stop() {
    thread.stop();
    if (end) end->close();
  }
};

TcpControlPlane::TcpControlPlane(int world_rank, int world_size,
                                 std::vector<std::string> listen_addresses)
    : ControlPlane(world_rank, world_size),
      listen_addresses_(std::move(listen_addresses)),
      impl_(std::make_unique<Impl>()) {}

TcpControlPlane::~TcpControlPlane() {
  impl_->stop();
}

Result<std::unique_ptr<TcpControlPlane>> TcpControlPlane::connect(
    int world_rank, int world_size, std::vector<std::string> listen_addresses,
    const FirstBroadcast& broadcast, Deadline deadline) {
  LOCKSTEP_CHECK(world_size >= 2 && world_rank >= 0 && world_rank < world_size, "rank ", world_rank,
                 " of ", world_size);
  std::unique_ptr<TcpControlPlane> plane(
      new TcpControlPlane(world_rank, world_size, std::move(listen_addresses)));
  LOCKSTEP_RETURN_IF_ERROR(plane->start(broadcast, deadline));
  return plane;
}

Status TcpControlPlane::start(const FirstBroadcast& broadcast, Deadline deadline) {
  std::string within = cat(" within ", fixed(deadline.length_s(), 3), " s");
  if (world_rank() == 0) {
    auto owned = std::make_unique<PlaneCenter>(impl_->thread.io(), impl_->inbox, world_size());
    PlaneCenter& center = *owned;
    impl_->end = std::move(owned);
    // The others wait for the broadcast: tell them too when there is nothing to connect to.
    Result<PlaneRendezvous> rendezvous = center.listen(listen_addresses_);
    std::string text = rendezvous.is_ok() ? rendezvous->to_text() : std::string();
    LOCKSTEP_RETURN_IF_ERROR(broadcast(std::move(text)).status());
    LOCKSTEP_RETURN_IF_ERROR(rendezvous.status());
    impl_->thread.start(*impl_->end);
    if (impl_->inbox.wait_until_ready(deadline)) return Status::ok();
    LOCKSTEP_RETURN_IF_ERROR(impl_->inbox.failure().with_context("start of the control plane"));
    impl_->thread.stop();
    std::vector<int> unconnected = center.unconnected();
    return timeout_error(
        cat("start of the control plane: ", ranks_text(unconnected), " did not connect", within));
  }
  LOCKSTEP_ASSIGN_OR_RETURN(std::string text, broadcast({}));
  auto rendezvous = PlaneRendezvous::parse(text);
  if (!rendezvous) return io_error("start of the control plane: rank 0 can't listen");
  std::string endpoints = join(rendezvous->endpoints, ", ");
  auto owned = std::make_unique<PlaneSpoke>(impl_->thread.io(), impl_->inbox, world_rank(),
                                            world_size(), std::move(*rendezvous));
  PlaneSpoke& spoke = *owned;
  impl_->end = std::move(owned);
  asio::post(impl_->thread.io(), [&spoke] { spoke.connect(); });
  impl_->thread.start(*impl_->end);
  if (impl_->inbox.wait_until_ready(deadline)) return Status::ok();
  LOCKSTEP_RETURN_IF_ERROR(impl_->inbox.failure().with_context("start of the control plane"));
  return timeout_error(
      cat("start of the control plane: rank 0 does not answer at ", endpoints, within));
}

Result<std::vector<std::string>> TcpControlPlane::gather(std::string_view what, std::string message,
                                                         bool is_last, Deadline deadline) {
  LOCKSTEP_CHECK(message.size() <= kMaxControlMessageBytes, what, ": a message of ", message.size(),
                 " bytes");
  LOCKSTEP_RETURN_IF_ERROR(failure_);
  uint64_t round = num_rounds_++;
  auto arrival =
      std::make_shared<Arrival>(Arrival{round, is_last, std::string(what), std::move(message)});
  asio::post(impl_->thread.io(), [this, arrival] { impl_->end->arrive(std::move(*arrival)); });
  GiveUp give_up{round, static_cast<uint64_t>(deadline.length_s() * 1e3)};
  auto when_over = [this, give_up] {
    asio::post(impl_->thread.io(), [this, give_up] { impl_->end->give_up(give_up); });
  };
  auto messages = impl_->inbox.wait_for(round, when_over, deadline);
  if (messages.is_ok()) return messages;
  failure_ = messages.status().with_context(what);
  return failure_;
}

Result<std::vector<std::string>> TcpControlPlane::all_gather(std::string_view what,
                                                             std::string message,
                                                             Deadline deadline) {
  return gather(what, std::move(message), false, deadline);
}

void TcpControlPlane::begin_series() {
  num_rounds_ = next_series(num_rounds_);
  if (failure_.code() == StatusCode::kTimeout) failure_ = Status::ok();
}

std::vector<int> TcpControlPlane::lost_ranks() const {
  return impl_->inbox.lost_ranks();
}

Result<std::unique_ptr<ControlPlane>> TcpControlPlane::split(std::string_view name,
                                                             Deadline deadline) {
  auto over_this_plane = [&](std::string text) {
    return broadcast(cat("split of the control plane for ", name), std::move(text), deadline);
  };
  LOCKSTEP_ASSIGN_OR_RETURN(auto plane, connect(world_rank(), world_size(), listen_addresses_,
                                                over_this_plane, deadline));
  return std::unique_ptr<ControlPlane>(std::move(plane));
}

Status TcpControlPlane::shutdown(Deadline deadline) {
  LOCKSTEP_RETURN_IF_ERROR(gather("shutdown of the control plane", {}, true, deadline).status());
  failure_ = aborted_error("the control plane was shut down");
  asio::post(impl_->thread.io(), [this] { impl_->end->drain(); });
  // Rank 0's last result is on its way to everybody, or a peer does not read: either way this rank
  // is done.
  impl_->inbox.wait_until_drained(deadline);
  impl_->stop();
  return Status::ok();
}

void TcpControlPlane::on_peer_lost(std::function<void(int)> callback) {
  impl_->inbox.on_peer_lost(std::move(callback));
}

}  // namespace lockstep
