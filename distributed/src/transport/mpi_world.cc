// World::join: ranks as processes of an MPI job. Knows MPI only through mpi_bootstrap.h and
// mpi_communicator.h.
#include <algorithm>
#include <atomic>
#include <utility>

#include "launcher_variables.h"
#include "lockstep/core/base/environment.h"
#include "mpi_bootstrap.h"
#include "mpi_communicator.h"
#include "network_addresses.h"
#include "shared_ring.h"
#include "tcp_control_plane.h"
#include "world_impl.h"

namespace lockstep {
namespace {

/// Every rank's text, over the data path: the control plane is not there yet.
Result<std::vector<std::string>> gather_texts(Communicator& communicator, std::string_view what,
                                              const std::string& text, Deadline deadline) {
  auto size = static_cast<size_t>(communicator.world_size());
  std::vector<uint64_t> sizes(size);
  auto mine = std::span(sizes).subspan(static_cast<size_t>(communicator.world_rank()), 1);
  mine[0] = text.size();
  LOCKSTEP_RETURN_IF_ERROR(communicator.all_gather(
      std::as_bytes(mine), std::as_writable_bytes(std::span(sizes)), what, deadline));
  size_t longest = *std::max_element(sizes.begin(), sizes.end());
  std::string padded = text;
  padded.resize(longest);
  std::string all(longest * size, '\0');
  LOCKSTEP_RETURN_IF_ERROR(communicator.all_gather(
      std::as_bytes(std::span(padded)), std::as_writable_bytes(std::span(all)), what, deadline));
  std::vector<std::string> texts;
  for (size_t rank = 0; rank < size; ++rank) {
    texts.push_back(all.substr(rank * longest, sizes[rank]));
  }
  return texts;
}

/// Of each host once, rank 0's first; a host is told apart by its name and boot.
Result<std::vector<std::string>> find_listen_addresses(Communicator& communicator, int num_hosts,
                                                       Deadline deadline) {
  if (num_hosts == 1) return choose_listen_addresses({});
  std::string mine = cat(host_name(), "/", boot_id(), "\n", addresses_text(own_addresses()));
  LOCKSTEP_ASSIGN_OR_RETURN(
      std::vector<std::string> texts,
      gather_texts(communicator, "gathering the hosts' addresses", mine, deadline));
  std::vector<std::string> hosts;
  std::vector<std::vector<HostAddress>> addresses;
  for (const std::string& text : texts) {
    std::string host = text.substr(0, text.find('\n'));
    if (std::find(hosts.begin(), hosts.end(), host) != hosts.end()) continue;
    hosts.push_back(host);
    addresses.push_back(parse_addresses(text));
  }
  std::vector<std::string> chosen = choose_listen_addresses(addresses);
  if (!chosen.empty()) return chosen;
  return io_error(cat("rank 0 (", host_name(),
                      ") has no network address that the other hosts could reach; its addresses: ",
                      addresses_text(own_addresses())));
}

/// Above 1 MiB one copy by the kernel (MPI's process_vm_readv) beats two by us. Ranks that share
/// processors can't fill and empty a ring at once, so that it should hold the whole message. Both
/// measured: DESIGN.md 5.
size_t max_ring_message_bytes(const MpiJob& job) {
  return job.is_oversubscribed ? SharedRing::kCapacityBytes : size_t{1} << 20;
}

/// A tenth of the time that 128 KiB, what a socket holds, take at 10 Gbit/s.
constexpr int64_t kNetworkPauseNs = 10'000;

/// Lost ranks for the data path, which exists before the control plane that knows them.
struct LostRanks {
  std::atomic<const ControlPlane*> plane = nullptr;
  std::vector<int> operator()() const {
    const ControlPlane* known = plane.load();
    return known == nullptr ? std::vector<int>{} : known->lost_ranks();
  }
};

}  // namespace

Result<World> World::join(int argc, char** argv, const WorldOptions& options) {
  if (!is_started_for_mpi(environment_variable)) {
    LOCKSTEP_RETURN_IF_ERROR(check_world_size(1, environment_variable));
    return solo(options);
  }
  LOCKSTEP_ASSIGN_OR_RETURN(MpiJob job, start_mpi(&argc, &argv));
  if (Status status = check_world_size(job.world_size, environment_variable); !status.is_ok()) {
    finish_mpi().ignore();  // the disagreement is what matters
    return status;
  }
  if (job.world_size == 1) {
    World alone = solo(options);
    alone.impl_->finish = finish_mpi;
    alone.impl_->end_job = [](int exit_code, std::string_view) { abort_mpi(exit_code); };
    return alone;
  }
  Deadline deadline = Deadline::after_s(options.start_timeout_s);
  auto lost = std::make_shared<LostRanks>();
  LOCKSTEP_ASSIGN_OR_RETURN(
      std::unique_ptr<Communicator> communicator,
      make_mpi_communicator({.is_oversubscribed = job.is_oversubscribed,
                             .idle_pause_ns = job.hosts.num_hosts > 1 ? kNetworkPauseNs : 0,
                             .max_ring_message_bytes = max_ring_message_bytes(job),
                             .lost_ranks = [lost] { return (*lost)(); },
                             .on_slow_wait = [log = options.log.with(job.world_rank, -1)](
                                                 const std::string& text) { log.warn(text); }}));
  LOCKSTEP_ASSIGN_OR_RETURN(std::vector<std::string> addresses,
                            find_listen_addresses(*communicator, job.hosts.num_hosts, deadline));
  auto over_mpi = [&](std::string text) -> Result<std::string> {
    LOCKSTEP_ASSIGN_OR_RETURN(
        std::vector<std::string> texts,
        gather_texts(*communicator, "start of the control plane", text, deadline));
    return texts[0];
  };
  LOCKSTEP_ASSIGN_OR_RETURN(auto plane, TcpControlPlane::connect(job.world_rank, job.world_size,
                                                                 addresses, over_mpi, deadline));
  TcpControlPlane* plane_pointer = plane.get();
  lost->plane.store(plane_pointer);

  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->options.log = options.log.with(job.world_rank, -1);
  impl->communicator = std::move(communicator);
  impl->control_plane = std::move(plane);
  impl->local_rank = job.local_rank;
  impl->num_local_ranks = job.num_local_ranks;
  impl->num_hosts = job.hosts.num_hosts;
  impl->ranks_per_host = job.hosts.ranks_per_host;
  impl->set_on_peer_lost = [plane_pointer](std::function<void(int)> callback) {
    plane_pointer->on_peer_lost(std::move(callback));
  };
  impl->finish = finish_mpi;
  impl->end_job = [](int exit_code, std::string_view) { abort_mpi(exit_code); };
  if (job.world_rank == 0 && job.hosts.num_hosts > 1 && job.hosts.ranks_per_host == 1 &&
      job.hosts.num_hosts < job.world_size) {
    impl->options.log.warn(
        "the ranks of a host are not neighbours, or hosts have different numbers of them: more of "
        "each exchange crosses the network than must (mpirun --map-by slot deals them out so)");
  }
  return World(std::move(impl));
}

}  // namespace lockstep
