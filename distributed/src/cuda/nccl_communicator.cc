#include "nccl_communicator.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <nccl.h>
#include <torch/csrc/cuda/nccl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "exchange_watchdog.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"
#include "peer_exchange_communicator.h"
#include "rank_names.h"

namespace lockstep::cuda {
namespace {

// What ncclCommAbort may take before it is left to itself.
constexpr double kAbortS = 5;
// For all GPUs to find each other. One that fails at once can tell the others only when they have
// waited so long.
constexpr double kConnectS = 120;
// NCCL notices before the control plane that a peer's connection broke; the plane knows whose.
constexpr double kNameS = 1;
constexpr int64_t kPauseNs = 20'000;

std::string version_of(int code) {
  return cat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

std::string id_text(const ncclUniqueId& id) {
  return std::string(id.internal, sizeof(id.internal));
}

// NCCL's communicator, which the watchdog's thread may take away between two calls of another.
struct Handle {
  std::timed_mutex mutex;
  ncclComm_t communicator = nullptr;  // null: not made, or let go
};

// In order where all is well: every rank comes here at its end. Else NCCL is told to drop whatever
// is under way, so that the GPU goes on. May hang; touches nothing but the handle.
void let_go(Handle& handle, int device, bool is_well) {
  ncclComm_t communicator = nullptr;
  {
    // A call that does not come back must not keep it from being aborted.
    const std::unique_lock lock(handle.mutex, std::chrono::duration<double>(kAbortS));
    communicator = std::exchange(handle.communicator, nullptr);
  }
  if (communicator == nullptr) return;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  if (is_well) {
    static_cast<void>(ncclCommFinalize(communicator));
    ncclResult_t state = ncclInProgress;
    const Deadline deadline = Deadline::after_s(kAbortS);
    while (state == ncclInProgress && !deadline.has_passed()) {
      if (ncclCommGetAsyncError(communicator, &state) != ncclSuccess) break;
      if (state == ncclInProgress) sleep_ns(kPauseNs);
    }
    if (state == ncclSuccess) {
      static_cast<void>(ncclCommDestroy(communicator));
      return;
    }
  }
  static_cast<void>(ncclCommAbort(communicator));
}

class NcclCommunicator final : public PeerExchangeCommunicator {
 public:
  NcclCommunicator(World& world, CudaQueue& queue, DeviceMemory barrier_bytes, const Log& log)
      : PeerExchangeCommunicator(world.world_rank(), world.world_size()),
        plane_(world.control_plane()),
        queue_(queue),
        log_(log),
        barrier_bytes_(std::move(barrier_bytes)),
        handle_(std::make_shared<Handle>()),
        watchdog_(queue, {[this] { return look(); },
                          [this, handle = handle_, device = queue.device()](const Status& why) {
                            fail(why).ignore();
                            let_go(*handle, device, /*is_well=*/false);
                          }}) {}
  ~NcclCommunicator() override;

  Status connect(const ncclUniqueId& id, Deadline deadline);

  Status exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                  OnReceived on_received, std::string_view what, Deadline deadline) override;
  Status all_gather(std::span<const std::byte> in, std::span<std::byte> out, std::string_view what,
                    Deadline deadline) override;
  Status native_all_reduce_sum(float* values, int64_t num_elems, Deadline deadline) override {
    return all_reduce(values, num_elems, ncclFloat32, sizeof(float), deadline);
  }
  Status native_all_reduce_sum(double* values, int64_t num_elems, Deadline deadline) override {
    return all_reduce(values, num_elems, ncclFloat64, sizeof(double), deadline);
  }
  Status barrier(std::string_view what, Deadline deadline) override;
  Status settle(std::string_view what, Deadline deadline) override;
  /// Also of what the GPU is at.
  void abort(std::string_view reason) override {
    fail(aborted_error(std::string(reason))).ignore();
  }
  std::string_view backend() const override { return "nccl"; }

 private:
  Status all_reduce(void* values, int64_t num_elems, ncclDataType_t type, size_t elem_bytes,
                    Deadline deadline);
  WatchedExchange next_call(std::string_view what, Deadline deadline);
  template <typename Calls>
  Status hand_over(WatchedExchange exchange, Deadline deadline, const Calls& calls);
  Status check(ncclResult_t result, std::string_view call) const;
  Status wait_handed_over(const std::string& text, Deadline deadline);
  Status check_waited(const Status& waited);
  Result<bool> is_handed_over();
  Status look();

  ControlPlane& plane_;
  CudaQueue& queue_;
  Log log_;
  DeviceMemory barrier_bytes_;
  uint64_t num_calls_ = 0;
  std::shared_ptr<Handle> handle_;
  ExchangeWatchdog watchdog_;  // last: it looks at the others
};

// Requires: the handle's mutex is held.
Status NcclCommunicator::check(ncclResult_t result, std::string_view call) const {
  if (result == ncclSuccess || result == ncclInProgress) return Status::ok();
  ncclResult_t state = ncclSuccess;
  if (handle_->communicator != nullptr)
    static_cast<void>(ncclCommGetAsyncError(handle_->communicator, &state));
  const char* detail = ncclGetLastError(handle_->communicator);
  std::string text =
      cat(call, " gave ", ncclGetErrorString(result), " (state: ", ncclGetErrorString(state), ")",
          detail == nullptr || *detail == '\0' ? std::string() : cat(": ", detail),
          "; NCCL_DEBUG=INFO tells more");
  // Nothing is wrong with this rank: a peer is gone, or has given up, or the network broke.
  return result == ncclRemoteError ? peer_failure_error(std::move(text))
                                   : internal_error(std::move(text));
}

// A non-blocking call has been handed over once NCCL no longer says "in progress".
Result<bool> NcclCommunicator::is_handed_over() {
  // Another thread may be in a call that does not come back.
  const std::unique_lock lock(handle_->mutex, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  if (handle_->communicator == nullptr) return failure();
  ncclResult_t state = ncclSuccess;
  LOCKSTEP_RETURN_IF_ERROR(
      check(ncclCommGetAsyncError(handle_->communicator, &state), "ncclCommGetAsyncError"));
  LOCKSTEP_RETURN_IF_ERROR(check(state, "this call, or one before,"));
  return state == ncclSuccess;
}

Status NcclCommunicator::look() {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  const Status state = is_handed_over().status();
  std::vector<int> lost = plane_.lost_ranks();
  const Deadline named = Deadline::after_s(kNameS);
  while (state.code() == StatusCode::kPeerFailure && lost.empty() && !named.has_passed()) {
    sleep_ns(kPauseNs);
    lost = plane_.lost_ranks();
  }
  if (lost.empty()) return state;
  return peer_failure_error(cat(ranks_text(lost), " gone (the connection closed)"));
}

// A call has been handed over, `text` names it.
Status NcclCommunicator::wait_handed_over(const std::string& text, Deadline deadline) {
  const auto is_done = [this]() -> Result<bool> {
    Result<bool> is_over = is_handed_over();
    if (is_over.is_ok()) return is_over;
    const Status named = look();
    return named.is_ok() ? is_over : named;
  };
  return check_waited(watchdog_.wait(text, deadline, is_done, log_));
}

Status NcclCommunicator::check_waited(const Status& waited) {
  return waited.is_ok() ? failure() : fail(waited);
}

WatchedExchange NcclCommunicator::next_call(std::string_view what, Deadline deadline) {
  WatchedExchange exchange;
  exchange.what = what;
  exchange.call = num_calls_++;
  exchange.world_rank = world_rank();
  exchange.timeout_s = deadline.length_s();
  return exchange;
}

Status NcclCommunicator::connect(const ncclUniqueId& id, Deadline deadline) {
  const WatchedExchange call = next_call("connecting the GPUs", deadline);
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(queue_.device()));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  Status begun;
  {
    const std::lock_guard lock(handle_->mutex);
    begun = check(
        ncclCommInitRankConfig(&handle_->communicator, world_size(), id, world_rank(), &config),
        "ncclCommInitRankConfig");
  }
  if (!begun.is_ok()) return fail(begun.with_context(call.text()));
  return wait_handed_over(call.text(), deadline);
}

// `calls` makes NCCL's calls of one group with the communicator that it is given.
template <typename Calls>
Status NcclCommunicator::hand_over(WatchedExchange exchange, Deadline deadline,
                                   const Calls& calls) {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(queue_.device()));
  exchange.begin = queue_.mark();
  Status status;
  {
    const std::lock_guard lock(handle_->mutex);
    if (handle_->communicator == nullptr) return failure();
    status = check(ncclGroupStart(), "ncclGroupStart");
    if (status.is_ok()) {
      status = calls(handle_->communicator);
      const Status ended = check(ncclGroupEnd(), "ncclGroupEnd");
      if (status.is_ok()) status = ended;
    }
  }
  const std::string text = exchange.text();
  status = status.is_ok() ? wait_handed_over(text, deadline) : fail(status.with_context(text));
  // Watched also when it failed: what the GPU has of it must be given up.
  exchange.end = queue_.mark();
  watchdog_.watch(std::move(exchange));
  return status;
}

Status NcclCommunicator::exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                  OnReceived on_received, std::string_view what,
                                  Deadline deadline) {
  check_ops(sends, recvs);
  WatchedExchange exchange = next_call(what, deadline);
  exchange.add_messages(sends, recvs);
  for (const SendOp& op : sends) count_sent(op.bytes.size());
  const cudaStream_t stream = queue_.stream();
  const Status handed = hand_over(std::move(exchange), deadline, [&](ncclComm_t communicator) {
    for (const SendOp& op : sends) {
      if (op.bytes.empty()) continue;
      LOCKSTEP_RETURN_IF_ERROR(
          check(ncclSend(op.bytes.data(), op.bytes.size(), ncclInt8, op.peer, communicator, stream),
                cat("ncclSend to rank ", op.peer)));
    }
    for (const RecvOp& op : recvs) {
      if (op.bytes.empty()) continue;
      LOCKSTEP_RETURN_IF_ERROR(
          check(ncclRecv(op.bytes.data(), op.bytes.size(), ncclInt8, op.peer, communicator, stream),
                cat("ncclRecv from rank ", op.peer)));
    }
    return Status::ok();
  });
  LOCKSTEP_RETURN_IF_ERROR(handed);
  // Whatever is handed to the queue from here on finds the memory filled.
  if (on_received) {
    for (size_t i = 0; i < recvs.size(); ++i) on_received(i);
  }
  return Status::ok();
}

Status NcclCommunicator::all_gather(std::span<const std::byte> in, std::span<std::byte> out,
                                    std::string_view what, Deadline deadline) {
  const auto size = static_cast<size_t>(world_size());
  LOCKSTEP_CHECK(out.size() == in.size() * size, "all_gather of ", in.size(), " bytes over ", size,
                 " ranks into ", out.size(), " bytes");
  auto own_place = out.subspan(in.size() * static_cast<size_t>(world_rank()), in.size());
  if (in.data() != own_place.data()) queue_.copy(own_place.data(), in.data(), in.size());
  return PeerExchangeCommunicator::all_gather(own_place, out, what, deadline);
}

Status NcclCommunicator::barrier(std::string_view what, Deadline deadline) {
  const auto mine = barrier_bytes_.bytes().subspan(static_cast<size_t>(world_rank()), 1);
  LOCKSTEP_RETURN_IF_ERROR(all_gather(mine, barrier_bytes_.bytes(), what, deadline));
  return settle(what, deadline);
}

Status NcclCommunicator::all_reduce(void* values, int64_t num_elems, ncclDataType_t type,
                                    size_t elem_bytes, Deadline deadline) {
  count_native_sum(static_cast<uint64_t>(num_elems) * elem_bytes);
  return hand_over(next_call("native all-reduce", deadline), deadline,
                   [&](ncclComm_t communicator) {
                     return check(ncclAllReduce(values, values, static_cast<size_t>(num_elems),
                                                type, ncclSum, communicator, queue_.stream()),
                                  "ncclAllReduce");
                   });
}

Status NcclCommunicator::settle(std::string_view what, Deadline deadline) {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  return check_waited(watchdog_.settle(what, deadline, log_));
}

NcclCommunicator::~NcclCommunicator() {
  if (!watchdog_.stop()) {
    log_.warn("NCCL does not give up what is under way; it is left to the end of the process");
    return;
  }
  std::packaged_task<void()> task(
      [handle = handle_, device = queue_.device(), is_well = failure().is_ok()] {
        let_go(*handle, device, is_well);
      });
  std::future<void> done = task.get_future();
  std::thread thread(std::move(task));
  if (done.wait_for(std::chrono::duration<double>(2 * kAbortS)) == std::future_status::ready) {
    thread.join();
  } else {
    log_.warn("NCCL does not let go of its communicator; it is left to the end of the process");
    thread.detach();
  }
}

}  // namespace

std::string nccl_version_text() {
  int loaded = 0;
  if (ncclGetVersion(&loaded) != ncclSuccess) return "of an unknown version";
  // As LibTorch packs it.
  const uint64_t torchs = torch::cuda::nccl::version();
  return cat(version_of(loaded), " (built with ", version_of(NCCL_VERSION_CODE), ", LibTorch with ",
             torchs >> 32, ".", (torchs >> 16) & 0xffff, ".", torchs & 0xffff, ")");
}

Result<std::unique_ptr<Communicator>> connect_nccl(World& world, CudaQueue& queue,
                                                   Result<DeviceMemory> barrier_bytes,
                                                   const Log& log, Deadline deadline) {
  if (world.world_rank() == 0) {
    log.info(cat("NCCL ", nccl_version_text()));
    for (const std::string& line : environment_variables_beginning_with("NCCL_")) log.info(line);
  }
  ncclUniqueId id{};
  Status made = barrier_bytes.status();
  if (world.world_rank() == 0 && made.is_ok()) {
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
      made = internal_error(cat("ncclGetUniqueId gave ", ncclGetErrorString(result),
                                "; NCCL_SOCKET_IFNAME names the network interface to use"));
    }
  }
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("NCCL's start", made, deadline));
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string text, world.control_plane().broadcast(
                                                        "NCCL's identity", id_text(id), deadline));
  if (text.size() != sizeof(id.internal))
    return internal_error(cat("NCCL's identity has ", text.size(), " bytes"));
  std::memcpy(id.internal, text.data(), text.size());
  auto communicator =
      std::make_unique<NcclCommunicator>(world, queue, std::move(barrier_bytes).value(), log);
  const Deadline connected = Deadline::after_s(std::min(deadline.remaining_s(), kConnectS));
  // A rank that waited in vain until the deadline still has to tell the others.
  const Deadline verdict = Deadline::after_s(2 * connected.length_s());
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote(
      "connecting the GPUs", caught([&] { return communicator->connect(id, connected); }),
      verdict));
  return std::unique_ptr<Communicator>(std::move(communicator));
}

}  // namespace lockstep::cuda
