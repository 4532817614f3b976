#pragma once
// What a DataParallel consists of: the plans made once at the start, and the step under way. The
// public functions (data_parallel.cc) check the caller; what happens in a step is in
// data_parallel_impl.cc.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "buffer_store.h"
#include "comm_worker.h"
#include "flat_model.h"
#include "gradient_store.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/tree_reducer.h"
#include "parameter_gate.h"
#include "staged_memory.h"
#include "step_message.h"

namespace lockstep {

struct DataParallel::Impl {
  Impl(const World& w, const DataParallelOptions& o, FlatModel m)
      : world(w.impl_),
        options(o),
        device(o.accelerator != nullptr ? static_cast<Device&>(*o.accelerator) : host_device()),
        state_memory(o.accelerator != nullptr ? std::make_shared<StagedMemory>(o.accelerator)
                                              : nullptr),
        model(std::move(m)) {}
  /// Ends what the communication thread still has under way: in the middle of a step it is given
  /// up, else it is waited for.
  ~Impl();

  // What may come next.
  enum class Phase : uint8_t {
    kIdle,          // no step, or one that failed or was used up
    kAccumulating,  // begun, not reduced
    kReduced,       // this rank's shard of the gradient sums is in place
  };

  // A trainable space with what its exchange needs.
  struct Trainable {
    int space_index = 0;
    std::unique_ptr<TreeReducer> reducer;
  };

  World world;
  DataParallelOptions options;
  Device& device;
  std::shared_ptr<StateMemory> state_memory;  // how slices of the state are reached; null: directly
  std::unique_ptr<Communicator> device_communicator;  // null on the host, and in a world of one
  FlatModel model;
  CommSchedule schedule = CommSchedule::kInline;
  BucketChoice bucket_choice;
  int64_t num_leaves = 0;
  LeafRange leaves;          // of this rank
  IndexRange micro_batches;  // of this rank
  FoldPlan fold;
  std::vector<Trainable> trainables;
  std::vector<TrainableSpace> public_spaces;
  std::vector<ShardPlan> value_plans;  // by space of the layout: who saves which blocks
  std::unique_ptr<GradientStore> gradients;
  std::unique_ptr<BufferStore> buffers;
  StepMessageShape message_shape;
  std::vector<std::byte> message_out, messages_in;

  // The step under way.
  Phase phase = Phase::kIdle;
  int64_t step = -1;
  int64_t next_micro_batch = 0;
  bool in_micro_batch = false;
  std::unique_lock<std::mutex> process_lock;
  std::vector<at::Tensor> losses;  // doubles, of this rank's micro-batches so far
  std::vector<double> weights;
  std::vector<size_t> deferred;  // buckets to exchange after backward
  // What ends the exchange of a bucket, in the order in which they are exchanged, which is theirs:
  // the thread's task, or a mark of the device.
  std::vector<uint64_t> exchange_tasks;
  std::vector<QueueMark> exchanged_marks;
  Status comm_status;            // written by the communication thread, read after drain()
  std::atomic<bool> in_backward{false};
  std::atomic<int> reduced_during_backward{0};
  OverlapReport last_overlap;
  double exposed_ms = 0;                  // since the last reduce()
  double communication_ms = 0;            // by the thread that communicates, read after drain()
  std::vector<std::pair<QueueMark, QueueMark>> exchange_marks;  // begin and end, on a device
  // Of this rank's gradient blocks, space after space, and where those of a bucket begin.
  DeviceMemory block_sums;
  std::vector<int64_t> first_block_sum;
  int64_t num_block_sums = 0;
  std::vector<size_t> first_gate_bucket;                       // by trainable space
  std::unique_ptr<ParameterGate> gate;  // where exchanges have a thread, or a device's queue
  std::unique_ptr<CommWorker> worker;     // last: joined before what it uses goes away

  Deadline deadline() const { return Deadline::after_s(options.timeout_s); }
  /// What moves the model's memory; that of small messages is the world's.
  Communicator& data_communicator() {
    return device_communicator != nullptr ? *device_communicator : world.communicator();
  }
  bool is_on_device() const { return !device.is_host(); }
  /// A parameter's bytes go to the other ranks behind what computes them.
  void follow_compute() { device.communication().wait_for(device.compute().mark()); }

  void end_on_device();
  TreeReducerOptions transfers() const;
  Status choose_buckets();
  void plan();
  void choose_schedule();
  LeafPosition position_of(int64_t micro_batch, bool for_gradients) const;
  void begin_step(int64_t at_step);
  void begin(int64_t at_step, int64_t index);
  void on_bucket_ready(size_t bucket);
  void exchange_bucket(size_t bucket);
  Status gather_bucket(size_t trainable, int bucket);
  void gather_behind(size_t trainable, int bucket);
  void run_exposed(const std::function<void()>& communicate);
  Status settle_exchanges(const QueueMark& computed);
  void sum_squares();
  Result<std::vector<double>> end_exchanges();
  Status broadcast(std::span<std::byte> bytes, int root, std::string_view what);
  void finish_backward();
  void take_part_with_zeros(int64_t at_step);
  Status agree_on_exchange(const Status& mine);
  Status exchange_messages(uint64_t flags, const Status& mine, std::vector<double> block_sums,
                           std::vector<StepMessage>* messages);
  std::vector<double> losses_of_step() const;
};

}  // namespace lockstep
