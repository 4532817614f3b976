#pragma once
// The observers of rank 0 as one. One of them failing is rank 0's alone to know, so the error is
// handed to the engine, which ends the next step with it on every rank. Must not know: what the
// observers do.

#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/core/train/step_loop.h"
#include "training_engine.h"

namespace lockstep {

class RankZeroObservers final : public StepObserver {
 public:
  RankZeroObservers(std::vector<StepObserver*> observers, TrainingEngine& engine)
      : observers_(std::move(observers)), engine_(engine) {}
  Status on_step(const StepRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_step(record); });
  }
  Status on_evaluation(const EvalRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_evaluation(record); });
  }
  Status on_save(const SaveRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_save(record); });
  }
  Status on_interval(const IntervalRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_interval(record); });
  }
  Status on_roll_back(int64_t num_steps, std::string_view reason) override {
    return tell([&](StepObserver* o) { return o->on_roll_back(num_steps, reason); });
  }

 private:
  template <typename F>
  Status tell(F&& what) {
    for (StepObserver* observer : observers_) {
      if (Status status = what(observer); !status.is_ok()) engine_.fail_next_step(status);
    }
    return Status::ok();
  }
  std::vector<StepObserver*> observers_;
  TrainingEngine& engine_;
};

}  // namespace lockstep
