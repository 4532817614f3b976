#include "mpi_communicator.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "local_rings.h"
#include "peer_exchange_communicator.h"
#include "poll_policy.h"
#include "rank_names.h"

namespace lockstep {
namespace {

/// The tag is the size: a message of another size than expected then matches nothing, and is found
/// by a probe with its real size. (Open MPI 4.1.4 corrupts memory when a large message is truncated
/// by process_vm_readv.) Order holds: both sides list the same sizes in the same order.
int tag_of(size_t size_bytes) {
  return static_cast<int>(size_bytes);
}
/// Polls without progress before the processor is given away between them. A poll takes 0.1-0.3 us;
/// a message that is on its way within a host arrives within a few hundred of them.
constexpr uint16_t kSpinPolls = 2000;
constexpr uint16_t kSpinPollsAtOnce = 20;
/// What the kernel adds to a pause before the thread runs again (timer slack and a switch).
constexpr double kWakeUpNs = 50'000;
/// Rings take 256 KiB for each ordered pair: 64 MiB a host at this many.
constexpr int kMaxRanksWithRings = 16;

std::string mpi_error_text(std::string_view call, int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return cat(call, " failed: ", std::string_view(text.data(), static_cast<size_t>(length)));
}

/// A part of a message under way.
struct Part {
  size_t op = 0;  ///< index among the group's sends or receives
  int peer = 0;
  size_t size_bytes = 0;
  bool is_recv = false;
  bool is_done = false;
};

class MpiCommunicator final : public PeerExchangeCommunicator {
 public:
  MpiCommunicator(MPI_Comm comm, int world_rank, int world_size,
                  const MpiCommunicatorOptions& options, LocalRings rings)
      : PeerExchangeCommunicator(world_rank, world_size),
        comm_(comm),
        options_(options),
        rings_(std::move(rings)) {}

  Status exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                  OnReceived on_received, std::string_view what, Deadline deadline) override;
  Status native_all_reduce_sum(float* values, int64_t num_elems, Deadline deadline) override {
    return all_reduce(values, num_elems, MPI_FLOAT);
  }
  Status native_all_reduce_sum(double* values, int64_t num_elems, Deadline deadline) override {
    return all_reduce(values, num_elems, MPI_DOUBLE);
  }
  void abort(std::string_view reason) override {
    fail(aborted_error(reason.empty() ? "aborted" : cat("aborted: ", reason))).ignore();
    is_aborted_.store(true);
  }
  std::string_view backend() const override { return "mpi"; }

 private:
  Status post(std::span<const SendOp> sends, std::span<const RecvOp> recvs, std::string_view what);
  Status wait_for_all(OnReceived on_received, std::string_view what, Deadline deadline);
  Status take(size_t index, int error, std::string_view what);
  Status look_for_other_sizes(std::string_view what) const;
  void tell_slow_wait(std::string_view what, double elapsed_s, Deadline deadline,
                      double* next_told_s) const;
  Status reason_to_give_up(std::string_view what, Deadline deadline) const;
  Status progress_mpi(OnReceived on_received, std::string_view what, bool* has_moved);
  std::vector<int> peers_waited_for() const;
  void let_go();
  void pause() const;
  size_t longest_far_bytes() const;
  uint16_t num_spin_polls(size_t num_far_bytes) const;
  template <typename T>
  Status all_reduce(T* values, int64_t num_elems, MPI_Datatype type);

  MPI_Comm comm_;
  MpiCommunicatorOptions options_;
  std::atomic<bool> is_aborted_ = false;
  LocalRings rings_;
  WireRate wire_rate_;
  // Of the exchange under way; kept to save allocations.
  std::vector<MPI_Request> requests_;
  std::vector<Part> parts_;
  std::vector<int> parts_left_of_recv_;
  std::vector<int> ready_;
  std::vector<MPI_Status> statuses_;
  size_t num_parts_left_ = 0;
};

Status MpiCommunicator::exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                 OnReceived on_received, std::string_view what, Deadline deadline) {
  check_ops(sends, recvs);
  LOCKSTEP_RETURN_IF_ERROR(failure());
  if (sends.empty() && recvs.empty()) return Status::ok();
  for (const SendOp& send : sends) count_sent(send.bytes.size());
  Status status;
  try {
    status = post(sends, recvs, what);
    if (status.is_ok()) status = wait_for_all(on_received, what, deadline);
  } catch (...) {
    // Thrown by on_received, in the middle of an exchange that can't be resumed.
    let_go();
    fail(internal_error(cat(what, ": ended by an exception"))).ignore();
    throw;
  }
  if (status.is_ok()) return status;
  let_go();
  return fail(std::move(status));
}

void MpiCommunicator::pause() const {
  if (options_.idle_pause_ns > 0) {
    sleep_ns(options_.idle_pause_ns);
  } else {
    sched_yield();
  }
}

/// Bytes to or from other hosts in the exchange under way, in the direction that has more of them.
size_t MpiCommunicator::longest_far_bytes() const {
  std::array<size_t, 2> num_bytes{};
  for (const Part& part : parts_) {
    if (!rings_.carries(part.peer, 0)) num_bytes[part.is_recv ? 1 : 0] += part.size_bytes;
  }
  return std::ranges::max(num_bytes);
}

/// What is short, or near, comes within the spin. What will keep its waiter for longer than a pause
/// lasts does not: the processor computes meanwhile, if it is given away at once.
uint16_t MpiCommunicator::num_spin_polls(size_t num_far_bytes) const {
  if (options_.is_oversubscribed) return kSpinPollsAtOnce;
  bool is_network = options_.idle_pause_ns > 0;
  double pause_ns = static_cast<double>(options_.idle_pause_ns) + kWakeUpNs;
  return is_network && wire_rate_.usual_wait_ns(num_far_bytes) > pause_ns ? kSpinPollsAtOnce
                                                                     : kSpinPolls;
}

/// Receives first: what arrives then has a place to go.
Status MpiCommunicator::post(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                             std::string_view what) {
  requests_.clear();
  parts_.clear();
  parts_left_of_recv_.assign(recvs.size(), 0);
  rings_.begin(sends, recvs);
  for (size_t op = 0; op < recvs.size(); ++op) {
    std::span<std::byte> bytes = recvs[op].bytes;
    if (rings_.carries(recvs[op].peer, bytes.size())) continue;
    do {
      size_t size = std::min(bytes.size(), options_.max_part_bytes);
      parts_.push_back({op, recvs[op].peer, size, true, false});
      requests_.push_back(MPI_REQUEST_NULL);
      ++parts_left_of_recv_[op];
      int code = MPI_Irecv(bytes.data(), static_cast<int>(size), MPI_BYTE, recvs[op].peer,
                           tag_of(size), comm_, &requests_.back());
      if (code != MPI_SUCCESS)
        return internal_error(cat(what, ": ", mpi_error_text("MPI_Irecv", code)));
      bytes = bytes.subspan(size);
    } while (!bytes.empty());
  }
  for (size_t op = 0; op < sends.size(); ++op) {
    std::span<const std::byte> bytes = sends[op].bytes;
    if (rings_.carries(sends[op].peer, bytes.size())) continue;
    do {
      size_t size = std::min(bytes.size(), options_.max_part_bytes);
      parts_.push_back({op, sends[op].peer, size, false, false});
      requests_.push_back(MPI_REQUEST_NULL);
      int code = MPI_Isend(bytes.data(), static_cast<int>(size), MPI_BYTE, sends[op].peer,
                           tag_of(size), comm_, &requests_.back());
      if (code != MPI_SUCCESS)
        return internal_error(cat(what, ": ", mpi_error_text("MPI_Isend", code)));
      bytes = bytes.subspan(size);
    } while (!bytes.empty());
  }
  ready_.resize(parts_.size());
  statuses_.resize(parts_.size());
  num_parts_left_ = parts_.size();
  return Status::ok();
}

Status MpiCommunicator::wait_for_all(OnReceived on_received, std::string_view what,
                                     Deadline deadline) {
  size_t num_far_bytes = longest_far_bytes();
  PollPolicy policy(num_spin_polls(num_far_bytes));
  Stopwatch watch;
  double next_told_s = options_.slow_wait_s;
  while (num_parts_left_ > 0 || !rings_.is_done()) {
    bool has_moved = false;
    LOCKSTEP_RETURN_IF_ERROR(rings_.progress(on_received, world_rank(), what, &has_moved));
    if (num_parts_left_ > 0) {
      LOCKSTEP_RETURN_IF_ERROR(progress_mpi(on_received, what, &has_moved));
    }
    PollPolicy::Advice advice = policy.after_poll(has_moved);
    if (advice.should_look) {
      LOCKSTEP_RETURN_IF_ERROR(reason_to_give_up(what, deadline));
      tell_slow_wait(what, watch.elapsed_s(), deadline, &next_told_s);
    }
    if (advice.should_yield) pause();
  }
  wire_rate_.saw(num_far_bytes, watch.elapsed_s() * 1e9);
  return Status::ok();
}

Status MpiCommunicator::progress_mpi(OnReceived on_received, std::string_view what,
                                     bool* has_moved) {
  int num_ready = 0;
  int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &num_ready,
                          ready_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) {
    return internal_error(cat(what, ": ", mpi_error_text("MPI_Testsome", code)));
  }
  for (int k = 0; k < num_ready; ++k) {
    *has_moved = true;
    --num_parts_left_;
    auto index = static_cast<size_t>(ready_[static_cast<size_t>(k)]);
    int error = code == MPI_SUCCESS ? MPI_SUCCESS : statuses_[static_cast<size_t>(k)].MPI_ERROR;
    LOCKSTEP_RETURN_IF_ERROR(take(index, error, what));
    const Part& part = parts_[index];
    if (!part.is_recv || --parts_left_of_recv_[part.op] > 0 || !on_received) continue;
    on_received(part.op);
  }
  return Status::ok();
}

/// Marks part `index` as done, or says what is wrong with it.
Status MpiCommunicator::take(size_t index, int error, std::string_view what) {
  Part& part = parts_[index];
  part.is_done = true;
  if (error == MPI_SUCCESS || error == MPI_ERR_PENDING) return Status::ok();
  return internal_error(cat(what, ": ", part.is_recv ? "receiving from" : "sending to", " rank ",
                            part.peer, ": ", mpi_error_text("MPI", error)));
}

/// A message from a peer that still owes this exchange one, and which matches none of those
/// expected. Looked for only at the deadline: before it, the expected message may have come while
/// the probe ran, and this be the next one.
Status MpiCommunicator::look_for_other_sizes(std::string_view what) const {
  for (const Part& part : parts_) {
    if (part.is_done || !part.is_recv) continue;
    int is_there = 0;
    MPI_Status status;
    if (MPI_Iprobe(part.peer, MPI_ANY_TAG, comm_, &is_there, &status) != MPI_SUCCESS) continue;
    if (is_there == 0 || status.MPI_TAG == tag_of(part.size_bytes)) continue;
    int num_bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &num_bytes);
    return invalid_argument_error(cat(what, ": rank ", world_rank(), " expects ", part.size_bytes,
                                      " bytes from rank ", part.peer, ", which sent ", num_bytes));
  }
  return Status::ok();
}

void MpiCommunicator::tell_slow_wait(std::string_view what, double elapsed_s, Deadline deadline,
                                     double* next_told_s) const {
  if (elapsed_s < *next_told_s || !options_.on_slow_wait) return;
  *next_told_s *= 2;
  options_.on_slow_wait(cat(what, ": waiting for ", ranks_text(peers_waited_for()), " since ",
                            fixed(elapsed_s, 0), " s; giving up in ",
                            fixed(deadline.remaining_s(), 0), " s"));
}

Status MpiCommunicator::reason_to_give_up(std::string_view what, Deadline deadline) const {
  if (is_aborted_.load()) return failure().with_context(what);
  if (options_.lost_ranks) {
    if (std::vector<int> lost = options_.lost_ranks(); !lost.empty()) {
      return peer_failure_error(cat(what, ": lost ", ranks_text(lost)));
    }
  }
  if (!deadline.has_passed()) return Status::ok();
  LOCKSTEP_RETURN_IF_ERROR(look_for_other_sizes(what));
  return timeout_error(cat(what, ": no progress with ", ranks_text(peers_waited_for()), " within ",
                           fixed(deadline.length_s(), 3), " s"));
}

std::vector<int> MpiCommunicator::peers_waited_for() const {
  std::vector<int> peers = rings_.peers_waited_for();
  for (const Part& part : parts_) {
    if (!part.is_done) peers.push_back(part.peer);
  }
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

/// After an error: receives that nothing has come for are taken back; the rest is left to MPI.
void MpiCommunicator::let_go() {
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (parts_[i].is_recv) MPI_Cancel(&requests_[i]);
    int is_complete = 0;
    MPI_Test(&requests_[i], &is_complete, MPI_STATUS_IGNORE);
    if (requests_[i] != MPI_REQUEST_NULL) MPI_Request_free(&requests_[i]);
  }
}

// Blocking, because this is the peer that the tree is compared with and Open MPI's non-blocking
// all-reduce is another, slower algorithm; so it is the one wait here that its deadline can't end
// (a dead rank ends the job all the same).
template <typename T>
Status MpiCommunicator::all_reduce(T* values, int64_t num_elems, MPI_Datatype type) {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  count_native_sum(static_cast<uint64_t>(num_elems) * sizeof(T));
  constexpr int64_t kMaxCount = int64_t{1} << 30;
  for (int64_t start = 0; start < num_elems; start += kMaxCount) {
    auto count = static_cast<int>(std::min(num_elems - start, kMaxCount));
    int code = MPI_Allreduce(MPI_IN_PLACE, values + start, count, type, MPI_SUM, comm_);
    if (code != MPI_SUCCESS) return fail(internal_error(mpi_error_text("MPI_Allreduce", code)));
  }
  return Status::ok();
}

Status mpi_status(std::string_view call, int code) {
  return code == MPI_SUCCESS ? Status::ok() : internal_error(mpi_error_text(call, code));
}

/// Each rank's part of the window, by rank of `local`; empty when this rank can't have them.
/// Collective: takes part in every call whatever became of those before.
std::vector<std::byte*> map_segments(MPI_Comm local, int num_local) {
  // The window is never freed: that would be communication in a destructor. MPI_Finalize does it.
  MPI_Win window = MPI_WIN_NULL;
  void* mine = nullptr;
  auto num_bytes = static_cast<MPI_Aint>(LocalRings::segment_bytes(num_local) + 64);
  if (MPI_Win_allocate_shared(num_bytes, 1, MPI_INFO_NULL, local, &mine, &window) != MPI_SUCCESS) {
    return {};
  }
  std::vector<std::byte*> segments;
  for (int i = 0; i < num_local; ++i) {
    MPI_Aint size = 0;
    int unit = 0;
    void* base = nullptr;
    if (MPI_Win_shared_query(window, i, &size, &unit, static_cast<void*>(&base)) != MPI_SUCCESS) {
      return {};
    }
    // Each rank maps the window elsewhere, but at the same distance from a page's start.
    auto address = reinterpret_cast<uintptr_t>(base);
    segments.push_back(reinterpret_cast<std::byte*>((address + 63) / 64 * 64));
  }
  return segments;
}

/// The rings between the ranks of `local`, or none when one of them can't have them: a rank that
/// fails says so in the last reduction, which all reach, and which is also the barrier that
/// attach() asks for.
Result<LocalRings> make_rings_of_host(MPI_Comm local, int world_rank, int world_size,
                                      size_t max_message_bytes) {
  LocalRings rings(world_size);
  int num_local = 1;
  LOCKSTEP_RETURN_IF_ERROR(mpi_status("MPI_Comm_size", MPI_Comm_size(local, &num_local)));
  if (num_local == 1 || num_local > kMaxRanksWithRings) return rings;
  std::vector<int> world_ranks(static_cast<size_t>(num_local));
  bool knows_ranks =
      MPI_Allgather(&world_rank, 1, MPI_INT, world_ranks.data(), 1, MPI_INT, local) == MPI_SUCCESS;
  std::vector<std::byte*> segments = map_segments(local, num_local);
  int has_rings = knows_ranks && !segments.empty() ? 1 : 0;
  if (has_rings != 0) rings.attach(world_rank, segments, world_ranks, max_message_bytes);
  int all_have_rings = 0;
  LOCKSTEP_RETURN_IF_ERROR(mpi_status(
      "MPI_Allreduce", MPI_Allreduce(&has_rings, &all_have_rings, 1, MPI_INT, MPI_MIN, local)));
  return all_have_rings != 0 ? std::move(rings) : LocalRings(world_size);
}

Result<LocalRings> make_local_rings(MPI_Comm comm, int world_rank, int world_size,
                                    size_t max_message_bytes) {
  MPI_Comm local = MPI_COMM_NULL;
  LOCKSTEP_RETURN_IF_ERROR(
      mpi_status("MPI_Comm_split_type",
                 MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local)));
  MPI_Comm_set_errhandler(local, MPI_ERRORS_RETURN);
  Result<LocalRings> rings = make_rings_of_host(local, world_rank, world_size, max_message_bytes);
  MPI_Comm_free(&local);  // the window has a communicator of its own
  return rings;
}

}  // namespace

Result<std::unique_ptr<Communicator>> make_mpi_communicator(const MpiCommunicatorOptions& options) {
  MPI_Comm comm = MPI_COMM_NULL;
  LOCKSTEP_CHECK(options.max_part_bytes > 0 && options.max_part_bytes <= size_t{1} << 30,
                 "max_part_bytes ", options.max_part_bytes);
  LOCKSTEP_RETURN_IF_ERROR(mpi_status("MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &comm)));
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  Result<LocalRings> rings = make_local_rings(comm, rank, size, options.max_ring_message_bytes);
  if (!rings.is_ok()) {
    MPI_Comm_free(&comm);
    return rings.status();
  }
  return std::unique_ptr<Communicator>(
      std::make_unique<MpiCommunicator>(comm, rank, size, options, std::move(*rings)));
}

}  // namespace lockstep
