#include "nccl_communicator.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <nccl.h>

#include <atomic>
#include <cstring>
#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"
#include "peer_exchange_communicator.h"

namespace lockstep::cuda {
namespace {

// A wait polls: without a pause for a millisecond, then this far apart. Every so many polls it looks
// at what may end it.
constexpr double kSpinS = 1e-3;
constexpr int64_t kPauseNs = 20'000;
constexpr int kPollsPerLook = 32;
constexpr double kSlowWaitS = 15;
// What ncclCommAbort may take before it is left to itself.
constexpr double kAbortS = 5;

std::string version_of(int code) {
  return cat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

std::string id_text(const ncclUniqueId& id) {
  return std::string(id.internal, sizeof(id.internal));
}

class NcclCommunicator final : public PeerExchangeCommunicator {
 public:
  NcclCommunicator(World& world, CudaQueue& queue, const Log& log)
      : PeerExchangeCommunicator(world.world_rank(), world.world_size()),
        plane_(world.control_plane()),
        queue_(queue),
        log_(log) {}
  ~NcclCommunicator() override { end(); }

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
  void abort(std::string_view reason) override;
  std::string_view backend() const override { return "nccl"; }

 private:
  Status all_reduce(void* values, int64_t num_elems, ncclDataType_t type, size_t elem_bytes,
                    Deadline deadline);
  Status begin(std::string_view what);
  Status check(ncclResult_t result, std::string_view call, std::string_view what);
  template <typename IsDone>
  Status wait(std::string_view what, Deadline deadline, const IsDone& is_done);
  Status wait_for_host(std::string_view what, Deadline deadline);
  Status look(std::string_view what, Deadline deadline);
  void end();

  ControlPlane& plane_;
  CudaQueue& queue_;
  Log log_;
  ncclComm_t communicator_ = nullptr;
  DeviceMemory barrier_bytes_;
  uint64_t sequence_ = 0;  // of calls, the same on all ranks
  std::atomic<bool> is_aborted_{false};
};

// Every message says who, the how-manieth call, and what NCCL says of itself.
Status NcclCommunicator::check(ncclResult_t result, std::string_view call, std::string_view what) {
  if (result == ncclSuccess || result == ncclInProgress) return Status::ok();
  ncclResult_t state = ncclSuccess;
  if (communicator_ != nullptr) static_cast<void>(ncclCommGetAsyncError(communicator_, &state));
  const char* detail = ncclGetLastError(communicator_);
  return fail(internal_error(
      cat(what, ": rank ", world_rank(), ", call ", sequence_, ": ", call, " gave ",
          ncclGetErrorString(result), " (state: ", ncclGetErrorString(state), ")",
          detail == nullptr || *detail == '\0' ? std::string() : cat(": ", detail),
          "; NCCL_DEBUG=INFO tells more")));
}

Status NcclCommunicator::look(std::string_view what, Deadline deadline) {
  if (is_aborted_) return failure();
  ncclResult_t state = ncclSuccess;
  LOCKSTEP_RETURN_IF_ERROR(
      check(ncclCommGetAsyncError(communicator_, &state), "ncclCommGetAsyncError", what));
  LOCKSTEP_RETURN_IF_ERROR(check(state, "a call before", what));
  if (const std::vector<int> lost = plane_.lost_ranks(); !lost.empty()) {
    std::string names;
    for (int rank : lost) names += cat(names.empty() ? "rank " : ", rank ", rank);
    return fail(peer_failure_error(cat(what, ": ", names, " is gone (its connection closed)")));
  }
  if (!deadline.has_passed()) return Status::ok();
  return fail(timeout_error(cat(what, ": rank ", world_rank(), ", call ", sequence_,
                                " was not done within ", deadline.length_s(),
                                " s; a rank did not come to it, or the network is stuck")));
}

template <typename IsDone>
Status NcclCommunicator::wait(std::string_view what, Deadline deadline, const IsDone& is_done) {
  const Stopwatch watch;
  double next_warning_s = kSlowWaitS;
  for (int polls = 1;; ++polls) {
    Result<bool> done = is_done();
    LOCKSTEP_RETURN_IF_ERROR(done.status());
    if (*done) return Status::ok();
    if (polls % kPollsPerLook == 0) LOCKSTEP_RETURN_IF_ERROR(look(what, deadline));
    const double waited_s = watch.elapsed_s();
    if (waited_s > next_warning_s) {
      log_.warn(cat(what, ": waiting for ", fixed(waited_s, 0), " s, call ", sequence_));
      next_warning_s *= 2;
    }
    if (waited_s > kSpinS) sleep_ns(kPauseNs);
  }
}

// A non-blocking call has been handed over once NCCL no longer says "in progress".
Status NcclCommunicator::wait_for_host(std::string_view what, Deadline deadline) {
  return wait(what, deadline, [&]() -> Result<bool> {
    ncclResult_t state = ncclSuccess;
    LOCKSTEP_RETURN_IF_ERROR(
        check(ncclCommGetAsyncError(communicator_, &state), "ncclCommGetAsyncError", what));
    LOCKSTEP_RETURN_IF_ERROR(check(state, "the call", what));
    return state == ncclSuccess;
  });
}

Status NcclCommunicator::connect(const ncclUniqueId& id, Deadline deadline) {
  constexpr std::string_view kWhat = "connecting the GPUs";
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(queue_.device()));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  LOCKSTEP_RETURN_IF_ERROR(
      check(ncclCommInitRankConfig(&communicator_, world_size(), id, world_rank(), &config),
            "ncclCommInitRankConfig", kWhat));
  LOCKSTEP_RETURN_IF_ERROR(wait_for_host(kWhat, deadline));
  std::byte* bytes = nullptr;
  C10_CUDA_CHECK(cudaMalloc(&bytes, static_cast<size_t>(world_size())));
  barrier_bytes_ = DeviceMemory(bytes, static_cast<size_t>(world_size()), [](std::byte* freed) {
    static_cast<void>(cudaFree(freed));
  });
  return Status::ok();
}

Status NcclCommunicator::begin(std::string_view what) {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  ++sequence_;
  return check(ncclGroupStart(), "ncclGroupStart", what);
}

Status NcclCommunicator::exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                  OnReceived on_received, std::string_view what,
                                  Deadline deadline) {
  check_ops(sends, recvs);
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(queue_.device()));
  LOCKSTEP_RETURN_IF_ERROR(begin(what));
  const cudaStream_t stream = queue_.stream();
  Status status;
  for (const SendOp& op : sends) {
    count_sent(op.bytes.size());
    if (op.bytes.empty() || !status.is_ok()) continue;
    status = check(ncclSend(op.bytes.data(), op.bytes.size(), ncclInt8, op.peer, communicator_,
                            stream),
                   cat("ncclSend to rank ", op.peer), what);
  }
  for (const RecvOp& op : recvs) {
    if (op.bytes.empty() || !status.is_ok()) continue;
    status = check(ncclRecv(op.bytes.data(), op.bytes.size(), ncclInt8, op.peer, communicator_,
                            stream),
                   cat("ncclRecv from rank ", op.peer), what);
  }
  const Status ended = check(ncclGroupEnd(), "ncclGroupEnd", what);
  LOCKSTEP_RETURN_IF_ERROR(status);
  LOCKSTEP_RETURN_IF_ERROR(ended);
  LOCKSTEP_RETURN_IF_ERROR(wait_for_host(what, deadline));
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
  constexpr std::string_view kWhat = "native all-reduce";
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(queue_.device()));
  LOCKSTEP_RETURN_IF_ERROR(begin(kWhat));
  count_native_sum(static_cast<uint64_t>(num_elems) * elem_bytes);
  const Status status =
      check(ncclAllReduce(values, values, static_cast<size_t>(num_elems), type, ncclSum,
                          communicator_, queue_.stream()),
            "ncclAllReduce", kWhat);
  const Status ended = check(ncclGroupEnd(), "ncclGroupEnd", kWhat);
  LOCKSTEP_RETURN_IF_ERROR(status);
  LOCKSTEP_RETURN_IF_ERROR(ended);
  return wait_for_host(kWhat, deadline);
}

Status NcclCommunicator::settle(std::string_view what, Deadline deadline) {
  LOCKSTEP_RETURN_IF_ERROR(failure());
  const QueueMark end = queue_.mark();
  return wait(what, deadline, [&]() -> Result<bool> {
    const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(end.get()));
    if (error == cudaSuccess) return true;
    if (error != cudaErrorNotReady) {
      return fail(internal_error(cat(what, ": rank ", world_rank(), ", call ", sequence_,
                                     ": the GPU has failed: ", cudaGetErrorName(error), ", ",
                                     cudaGetErrorString(error))));
    }
    static_cast<void>(cudaGetLastError());  // "not ready" is no error
    return false;
  });
}

void NcclCommunicator::abort(std::string_view reason) {
  fail(aborted_error(std::string(reason))).ignore();
  is_aborted_ = true;
}

// In order where all is well: every rank comes here at its end. Else NCCL is told to let go, on a
// thread of its own: should it hang all the same, this rank does not.
void NcclCommunicator::end() {
  if (communicator_ == nullptr) return;
  const bool is_well = failure().is_ok();
  std::packaged_task<void()> task([communicator = communicator_, is_well] {
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
  return cat(version_of(loaded), " (built with ", version_of(NCCL_VERSION_CODE), ")");
}

Result<std::unique_ptr<Communicator>> connect_nccl(World& world, CudaQueue& queue, const Log& log,
                                                   Deadline deadline) {
  if (world.world_rank() == 0) {
    log.info(cat("NCCL ", nccl_version_text()));
    for (const std::string& line : environment_variables_beginning_with("NCCL_")) log.info(line);
  }
  ncclUniqueId id{};
  Status made;
  if (world.world_rank() == 0) {
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
      made = internal_error(cat("ncclGetUniqueId gave ", ncclGetErrorString(result),
                                "; NCCL_SOCKET_IFNAME names the network interface to use"));
    }
  }
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("NCCL's start", made, deadline));
  LOCKSTEP_ASSIGN_OR_RETURN(
      const std::string text,
      world.control_plane().broadcast("NCCL's identity", id_text(id), deadline));
  if (text.size() != sizeof(id.internal))
    return internal_error(cat("NCCL's identity has ", text.size(), " bytes"));
  std::memcpy(id.internal, text.data(), text.size());
  auto communicator = std::make_unique<NcclCommunicator>(world, queue, log);
  // A rank that waited in vain until the deadline still has to tell the others.
  const Deadline verdict = Deadline::after_s(2 * deadline.remaining_s());
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote(
      "connecting the GPUs", caught([&] { return communicator->connect(id, deadline); }), verdict));
  return std::unique_ptr<Communicator>(std::move(communicator));
}

}  // namespace lockstep::cuda
