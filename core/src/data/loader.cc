#include "lockstep/core/data/loader.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/base/wait.h"

namespace lockstep {

struct BatchLoader::Impl {
  Impl(const Dataset& dataset_in, const Sampler& sampler_in, const LoaderOptions& options_in)
      : dataset(dataset_in), sampler(sampler_in), options(options_in) {}

  struct Made {
    MicroBatchId id;
    Status status;
    Batch batch;  // when status is OK
  };

  MicroBatchId successor(MicroBatchId id) const {
    if (id.micro_batch + 1 < options.end_micro_batch) return {id.step, id.micro_batch + 1};
    return {id.step + 1, options.first_micro_batch};
  }

  Made make(MicroBatchId id) const {
    auto context = [&] { return cat("step ", id.step, ", micro-batch ", id.micro_batch); };
    auto batch = caught([&]() -> Result<Batch> {
      LOCKSTEP_ASSIGN_OR_RETURN(Batch made,
                                dataset.batch(sampler.sample_indices(id.step, id.micro_batch)));
      made.inputs = to_memory_format(made.inputs, options.memory_format);
      return made;
    });
    if (!batch.is_ok()) return {id, batch.status().with_context(context()), {}};
    return {id, Status::ok(), std::move(batch).value()};
  }

  static Result<Batch> result_of(Made made) {
    if (!made.status.is_ok()) return made.status;
    return std::move(made.batch);
  }

  bool may_make_one() const {
    return next && next->step < options.end_step &&
           static_cast<int64_t>(ready.size()) < options.num_batches_ahead;
  }

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return is_stopping || may_make_one(); });
      if (is_stopping) return;
      MicroBatchId id = *next;
      uint64_t course_at_start = course;
      lock.unlock();
      Made made = make(id);
      lock.lock();
      // get() may have gone elsewhere meanwhile; then this batch is of no use.
      if (course != course_at_start) continue;
      // After an error the thread rests until get() has taken it and asks again.
      next = made.status.is_ok() ? std::optional(successor(id)) : std::nullopt;
      ready.push_back(std::move(made));
      changed.notify_all();
    }
  }

  /// Whether the batch of `id` is in the queue or is the one being made.
  bool is_on_course(MicroBatchId id) const {
    return (!ready.empty() && ready.front().id == id) || (ready.empty() && next && *next == id);
  }

  const Dataset& dataset;
  const Sampler sampler;
  const LoaderOptions options;

  std::mutex mutex;  // guards all below
  std::condition_variable changed;
  std::deque<Made> ready;  // ascending ids
  std::optional<MicroBatchId>
      next;             // what the thread makes now or next; none at the start and after an error
  uint64_t course = 0;  // counts changes of course
  bool is_stopping = false;
  int64_t num_waits = 0;
  std::thread thread;
};

BatchLoader::BatchLoader(const Dataset& dataset, const Sampler& sampler,
                         const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(dataset, sampler, options)) {
  LOCKSTEP_CHECK(options.first_micro_batch >= 0 &&
                     options.first_micro_batch < options.end_micro_batch &&
                     options.end_micro_batch <= sampler.micro_batches_per_step(),
                 "micro-batches [", options.first_micro_batch, ", ", options.end_micro_batch,
                 ") of a step of ", sampler.micro_batches_per_step());
  LOCKSTEP_CHECK(options.num_batches_ahead >= 1, "the queue holds at least 1 batch, not ",
                 options.num_batches_ahead);
  LOCKSTEP_CHECK(dataset.num_samples() == sampler.num_samples(), "a sampler of ",
                 sampler.num_samples(), " samples for a data set of ", dataset.num_samples());
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

BatchLoader::~BatchLoader() {
  stop();
}

Result<Batch> BatchLoader::get(MicroBatchId id) {
  Impl& impl = *impl_;
  LOCKSTEP_CHECK(id.step >= 0 && id.micro_batch >= impl.options.first_micro_batch &&
                     id.micro_batch < impl.options.end_micro_batch,
                 "step ", id.step, ", micro-batch ", id.micro_batch, " is not of this rank: [",
                 impl.options.first_micro_batch, ", ", impl.options.end_micro_batch, ")");
  std::unique_lock lock(impl.mutex);
  if (impl.is_stopping) return aborted_error("the loader was stopped");
  if (id.step >= impl.options.end_step) {
    // Beyond the forecast: made here, so that nothing is made ahead of the end.
    lock.unlock();
    return Impl::result_of(impl.make(id));
  }
  if (!impl.is_on_course(id)) {
    impl.ready.clear();
    impl.next = id;
    ++impl.course;
    impl.changed.notify_all();
  }
  if (impl.ready.empty()) ++impl.num_waits;
  Deadline deadline = Deadline::after_s(impl.options.timeout_s);
  auto is_there = [&] { return impl.is_stopping || !impl.ready.empty(); };
  while (!is_there()) {
    if (deadline.has_passed()) {
      return timeout_error(cat("step ", id.step, ", micro-batch ", id.micro_batch,
                               ": no batch within ", deadline.length_s(), " s from the data set ",
                               impl.dataset.identity()));
    }
    wait_at_most(impl.changed, lock, deadline.remaining_s());
  }
  if (impl.is_stopping) return aborted_error("the loader was stopped");
  Impl::Made made = std::move(impl.ready.front());
  impl.ready.pop_front();
  impl.changed.notify_all();
  return Impl::result_of(std::move(made));
}

void BatchLoader::stop() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->is_stopping = true;
    impl_->ready.clear();
  }
  impl_->changed.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
}

int64_t BatchLoader::num_waits() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->num_waits;
}

}  // namespace lockstep
