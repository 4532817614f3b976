#include "lockstep/core/train/save_account.h"

#include <algorithm>
#include <numeric>

namespace lockstep {

Status SaveAccount::on_step(const StepRecord& record) {
  step_ms_ += record.step_ms;
  ++num_steps_;
  done_ = record.step + 1;
  counted_.at_risk_steps_most = std::max(counted_.at_risk_steps_most, done_ - durable_);
  return Status::ok();
}

Status SaveAccount::on_save(const SaveRecord& record) {
  if (record.is_skipped) {
    ++counted_.num_skipped;
    return Status::ok();
  }
  const SaveWord word = record.word();
  if (word == SaveWord::kDurable) {
    ++counted_.num_durable;
    durable_ = record.num_steps;
  } else {
    ++(word == SaveWord::kUnknown ? counted_.num_unknown : counted_.num_failed);
  }
  stalls_ms_.push_back(record.stall_ms);
  if (record.is_behind) behind_ms_ += std::max(0.0, record.save_ms - record.stall_ms);
  return Status::ok();
}

Status SaveAccount::on_roll_back(int64_t num_steps, std::string_view /*reason*/) {
  done_ = durable_ = num_steps;
  return Status::ok();
}

SaveSummary SaveAccount::summary(double run_ms) const {
  SaveSummary out = counted_;
  std::vector<double> stalls = stalls_ms_;
  std::sort(stalls.begin(), stalls.end());
  if (const size_t count = stalls.size(); count > 0) {
    out.stall_ms_median =
        count % 2 == 1 ? stalls[count / 2] : (stalls[count / 2 - 1] + stalls[count / 2]) / 2;
    out.stall_ms_worst = stalls.back();
    out.stall_ms_total = std::accumulate(stalls.begin(), stalls.end(), 0.0);
  }
  if (run_ms > 0) {
    out.stall_share = out.stall_ms_total / run_ms;
    out.behind_share = behind_ms_ / run_ms;
  }
  const double step_s = num_steps_ > 0 ? step_ms_ / static_cast<double>(num_steps_) * 1e-3 : 0;
  out.at_risk_steps_now = done_ - durable_;
  out.at_risk_s_now = static_cast<double>(out.at_risk_steps_now) * step_s;
  out.at_risk_s_most = static_cast<double>(out.at_risk_steps_most) * step_s;
  return out;
}

}  // namespace lockstep
