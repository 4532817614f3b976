#pragma once
// StagedCommunicator: a communicator of a GPU under the suite for memory of the host: what is sent
// goes to the GPU first, what arrives comes back.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu_of_test.h"
#include "lockstep/distributed/communicator.h"

namespace lockstep::testing {

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(std::shared_ptr<Accelerator> gpu, std::unique_ptr<Communicator> inner)
      : Communicator(inner->world_rank(), inner->world_size()),
        gpu_(std::move(gpu)),
        inner_(std::move(inner)) {}

  Status exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                  OnReceived on_received, std::string_view what, Deadline deadline) override {
    std::vector<DeviceMemory> memory;
    std::vector<SendOp> device_sends;
    std::vector<RecvOp> device_recvs;
    for (const SendOp& op : sends) {
      memory.push_back(there(op.bytes));
      device_sends.push_back({op.peer, memory.back().bytes()});
      count_sent(op.bytes.size());
    }
    for (const RecvOp& op : recvs) {
      memory.push_back(gpu_->allocate(op.bytes.size()));
      device_recvs.push_back({op.peer, memory.back().bytes()});
    }
    LOCKSTEP_RETURN_IF_ERROR(
        inner_->exchange(device_sends, device_recvs, nullptr, what, deadline));
    for (size_t i = 0; i < recvs.size(); ++i) back(recvs[i].bytes, device_recvs[i].bytes);
    LOCKSTEP_RETURN_IF_ERROR(inner_->settle(what, deadline));
    for (size_t i = 0; on_received && i < recvs.size(); ++i) on_received(i);
    return Status::ok();
  }
  Status all_gather(std::span<const std::byte> in, std::span<std::byte> out, std::string_view what,
                    Deadline deadline) override {
    const DeviceMemory from = there(in), to = gpu_->allocate(out.size());
    count_sent(in.size() * static_cast<size_t>(world_size() - 1));
    LOCKSTEP_RETURN_IF_ERROR(inner_->all_gather(from.bytes(), to.bytes(), what, deadline));
    back(out, to.bytes());
    return inner_->settle(what, deadline);
  }
  Status broadcast(std::span<std::byte> bytes, int root, std::string_view what,
                   Deadline deadline) override {
    const DeviceMemory memory = there(bytes);
    const uint64_t before = inner_->num_bytes_sent();
    LOCKSTEP_RETURN_IF_ERROR(inner_->broadcast(memory.bytes(), root, what, deadline));
    count_sent(inner_->num_bytes_sent() - before);
    back(bytes, memory.bytes());
    return inner_->settle(what, deadline);
  }
  Status native_all_reduce_sum(float* values, int64_t num_elems, Deadline deadline) override {
    return sum(values, num_elems, deadline);
  }
  Status native_all_reduce_sum(double* values, int64_t num_elems, Deadline deadline) override {
    return sum(values, num_elems, deadline);
  }
  Status barrier(std::string_view what, Deadline deadline) override {
    return inner_->barrier(what, deadline);
  }
  void abort(std::string_view reason) override { inner_->abort(reason); }
  std::string_view backend() const override { return inner_->backend(); }

 private:
  DeviceMemory there(std::span<const std::byte> bytes) {
    DeviceMemory memory = gpu_->allocate(bytes.size());
    gpu_->communication().copy(memory.data(), bytes.data(), bytes.size());
    return memory;
  }
  void back(std::span<std::byte> to, std::span<const std::byte> from) {
    gpu_->communication().copy(to.data(), from.data(), to.size());
  }
  template <typename T>
  Status sum(T* values, int64_t num_elems, Deadline deadline) {
    const auto bytes = std::as_writable_bytes(std::span(values, static_cast<size_t>(num_elems)));
    const DeviceMemory memory = there(bytes);
    count_native_sum(bytes.size());
    LOCKSTEP_RETURN_IF_ERROR(inner_->native_all_reduce_sum(reinterpret_cast<T*>(memory.data()),
                                                           num_elems, deadline));
    back(bytes, memory.bytes());
    return inner_->settle("native sum", deadline);
  }

  std::shared_ptr<Accelerator> gpu_;
  std::unique_ptr<Communicator> inner_;
};

}  // namespace lockstep::testing
