#pragma once
// BatchLoader: makes batches ahead of compute, on a thread of its own. What get() returns depends
// on the micro-batch asked for alone; the order in which a rank works is only a forecast of what to
// make next, so skipping a step or going back after a rollback needs no call: the loader drops what
// it made and starts there. Thread-safety: one thread calls; the loader's own thread calls
// Dataset::batch. It draws no random numbers.

#include <cstdint>
#include <memory>

#include "lockstep/core/base/status.h"
#include "lockstep/core/data/batch.h"
#include "lockstep/core/data/dataset.h"
#include "lockstep/core/data/sampler.h"

namespace lockstep {

/// Names one forward/backward unit of a run.
struct MicroBatchId {
  int64_t step = 0;
  int64_t micro_batch = 0;
  bool operator==(const MicroBatchId&) const = default;
};

struct LoaderOptions {
  int64_t first_micro_batch =
      0;  ///< this rank works micro-batches [first, end) of every step, ascending
  int64_t end_micro_batch = 0;
  int64_t end_step = 0;           ///< nothing is made ahead for this step and later ones
  int64_t num_batches_ahead = 4;  ///< bound of the queue: batches held beside the one in use
  double timeout_s = 600;         ///< for one batch, e.g. from a file server that hangs
  at::MemoryFormat memory_format = at::MemoryFormat::Contiguous;  ///< of the inputs
};

class BatchLoader {
 public:
  /// Starts the thread, which waits for the first get(). Lifetime: `dataset` must outlive the
  /// loader. Requires: options within the sampler's bounds; sampler and data set have equally many
  /// samples.
  BatchLoader(const Dataset& dataset, const Sampler& sampler, const LoaderOptions& options);
  /// Stops the thread.
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  /// The batch of `id`; waits until it is made. Requires: a micro-batch of this rank's range, a
  /// step >= 0. Errors: those of the data set, with step and micro-batch; kInternal for an
  /// exception below; kTimeout naming the data set; kAborted after stop(). The next get() tries
  /// again.
  Result<Batch> get(MicroBatchId id);
  /// Ends and joins the thread, which first finishes the batch that it is making. Idempotent.
  void stop();
  /// How often get() found its batch unmade and had to wait: 1 at the start, then 0 while the
  /// loader keeps ahead.
  int64_t num_waits() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
