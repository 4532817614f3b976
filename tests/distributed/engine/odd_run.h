#pragma once
// A few steps of OddNet on every rank, and the digest of what they came to.

#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>
#include <torch/types.h>

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "digest_of_ranks.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "odd_net.h"

namespace lockstep {

struct RunSpec {
  int64_t micro_batches = 12;
  int64_t leaf = 1;
  double bucket_mib = 4;
  std::string optimizer = "adamw";
  double clip = 0.5;
  uint64_t seed = 7;
  int64_t steps = 3;
  double timeout_s = 60;
  Reduction reduction = Reduction::kTree;
  LeafDtype leaf_dtype = LeafDtype::kExact;
  /// The device of each rank; empty: the host.
  std::function<std::shared_ptr<Accelerator>(int world_rank)> accelerator = {};
  /// Called on each rank before each backward; what it throws fails the micro-batch.
  std::function<void(int world_rank, int64_t step)> before_backward = {};
  /// Called on each rank when a step's last backward has returned.
  std::function<void(int world_rank, int64_t step)> before_reduce = {};
  /// Called on each rank when a step's gradients are known.
  std::function<void(int world_rank, int64_t step)> before_update = {};
  /// Sees the module when the engine is gone; nobody waits for parameters then.
  std::function<void(OddNet&)> after = {};
  /// Sees what the run came to, instead of the digest. Empty: the digest does.
  std::function<Status(DataParallel&, ShardedOptimizer&)> at_end = {};
};

inline Status train_odd_net(World& world, OddNet& net, const RunSpec& spec, DigestOfRanks* digest) {
  const std::shared_ptr<Accelerator> accelerator =
      spec.accelerator ? spec.accelerator(world.world_rank()) : nullptr;
  const at::Device there(accelerator != nullptr ? std::string(accelerator->name()) : "cpu");
  net->to(there);
  DataParallelOptions options;
  options.seed = spec.seed;
  options.micro_batches_per_step = spec.micro_batches;
  options.leaf_micro_batches = spec.leaf;
  options.bucket_mib = spec.bucket_mib;
  options.reduction = spec.reduction;
  options.leaf_dtype = spec.leaf_dtype;
  options.timeout_s = spec.timeout_s;
  options.accelerator = accelerator;
  LOCKSTEP_ASSIGN_OR_RETURN(DataParallel parallel, DataParallel::make(world, *net, options));
  ShardedOptimizerOptions adam;
  adam.optimizer.name = spec.optimizer;
  adam.optimizer.learning_rate = 0.01;
  adam.optimizer.momentum = 0.9;
  adam.clip_max_norm = spec.clip;
  LOCKSTEP_ASSIGN_OR_RETURN(ShardedOptimizer optimizer, ShardedOptimizer::make(parallel, adam));
  for (int64_t step = 0; step < spec.steps; ++step) {
    const Status worked = caught([&] {
      for (MicroBatch mb : parallel.micro_batches(step)) {
        int64_t samples = 4 + mb.index % 3;  // uneven micro-batches are right by construction
        auto x = torch::arange(samples * 12, torch::kFloat)
                     .reshape({samples, 12})
                     .add(mb.index + 100 * step)
                     .mul(0.37)
                     .sin()
                     .to(there);
        auto y = torch::arange(samples, torch::kLong).add(mb.index).remainder(4).to(there);
        auto loss = torch::nn::functional::cross_entropy(net->forward(x, mb.index % 4 == 1), y);
        if (spec.before_backward) spec.before_backward(world.world_rank(), step);
        parallel.backward(mb, loss, static_cast<double>(samples));
      }
      return Status::ok();
    });
    if (spec.before_reduce) spec.before_reduce(world.world_rank(), step);
    LOCKSTEP_ASSIGN_OR_RETURN(StepGradients gradients, parallel.reduce(step, 0, worked));
    EXPECT_EQ(gradients.unused_parameters, std::vector<std::string>{"never"});
    EXPECT_TRUE(gradients.is_finite);
    if (spec.before_update) spec.before_update(world.world_rank(), step);
    LOCKSTEP_ASSIGN_OR_RETURN(UpdateReport update, optimizer.step(gradients));
    EXPECT_EQ(update.num_updates, step + 1);
  }
  if (spec.after) return Status::ok();
  LOCKSTEP_RETURN_IF_ERROR(parallel.wait_for_parameters());
  if (spec.at_end) return spec.at_end(parallel, optimizer);
  digest->add(state_schema(parallel, optimizer), owned_state(parallel, optimizer),
              optimizer.scalars());
  return Status::ok();
}

inline Status train_odd_net(World& world, const RunSpec& spec, DigestOfRanks* digest) {
  OddNet net{nullptr};
  {
    std::unique_lock<std::mutex> lock;
    if (world.process_lock() != nullptr) lock = std::unique_lock(*world.process_lock());
    torch::manual_seed(
        static_cast<uint64_t>(100 + world.world_rank()));  // rank 0's weights must win
    net = OddNet();
  }
  LOCKSTEP_RETURN_IF_ERROR(train_odd_net(world, net, spec, digest));
  if (spec.after) spec.after(net);
  return Status::ok();
}

inline std::string digest_of(int ranks, const RunSpec& spec) {
  DigestOfRanks digest;
  Status status = World::run_threads(
      ranks,
      [&](World& world) {
        LOCKSTEP_RETURN_IF_ERROR(train_odd_net(world, spec, &digest));
        // A rank that just left would be a lost peer to one whose last exchange is under way.
        return world.shutdown();
      },
      WorldOptions{});
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  return digest.hex();
}

}  // namespace lockstep
