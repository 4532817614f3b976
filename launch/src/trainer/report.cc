#include <nlohmann/json.hpp>

#include "lockstep/launch/trainer.h"

namespace lockstep {
namespace {

using Json = nlohmann::ordered_json;

const char* end_name(TrainEnd end) {
  switch (end) {
    case TrainEnd::kDone:
      return "done";
    case TrainEnd::kStoppedBySignal:
      return "stopped_by_signal";
    case TrainEnd::kStoppedByLimit:
      return "stopped_by_limit";
  }
  return "unknown";
}

const char* stop_name(TrainStop stop) {
  switch (stop) {
    case TrainStop::kNone:
      return nullptr;
    case TrainStop::kSaved:
      return "saved";
    case TrainStop::kPrevious:
      return "previous";
    case TrainStop::kNothingNew:
      return "nothing_new";
  }
  return nullptr;
}

Json device_json(const RankMemory& memory) {
  if (!memory.is_on_device()) return nullptr;
  return {{"in_use", memory.device.in_use},
          {"peak_in_use", memory.device.peak_in_use},
          {"reserved", memory.device.reserved},
          {"total", memory.device.total},
          {"num_times_full", memory.device.num_times_full}};
}

Json memory_json(const RankMemory& memory) {
  const MemoryLedger& predicted = memory.predicted;
  return {{"parameters", predicted.parameter_bytes},
          {"gradients", predicted.gradient_bytes},
          {"fold_buffers", predicted.fold_bytes},
          {"buffers", predicted.buffer_bytes},
          {"optimizer_state", predicted.optimizer_bytes},
          {"exchange", predicted.exchange_bytes},
          {"staging", memory.staging_bytes},
          {"predicted", memory.predicted_bytes()},
          {"measured", memory.measured_bytes > 0 ? Json(memory.measured_bytes) : Json(nullptr)},
          {"gpu", device_json(memory)}};
}

Json saves_json(const SaveSummary& saves, int64_t interval_steps) {
  return {{"num_saves", saves.num_saves()},
          {"num_durable", saves.num_durable},
          {"num_failed", saves.num_failed},
          {"num_unknown", saves.num_unknown},
          {"num_skipped", saves.num_skipped},
          {"stall_ms",
           {{"median", saves.stall_ms_median},
            {"worst", saves.stall_ms_worst},
            {"total", saves.stall_ms_total}}},
          {"stall_share", saves.stall_share},
          {"behind_share", saves.behind_share},
          {"lost_at_failure",
           {{"steps_now", saves.at_risk_steps_now},
            {"steps_most", saves.at_risk_steps_most},
            {"s_now", saves.at_risk_s_now},
            {"s_most", saves.at_risk_s_most}}},
          {"interval_steps", interval_steps > 0 ? Json(interval_steps) : Json(nullptr)}};
}

}  // namespace

std::string WeightsReport::to_json() const {
  const Json json = {{"path", path}, {"num_tensors", num_tensors}, {"bytes", bytes},
                     {"kept", kept}, {"recipe_hash", recipe_hash}, {"state_digest", state_digest}};
  return json.dump(2) + "\n";
}

std::string TrainReport::to_json() const {
  Json json = {{"status", end_name(end)},
               {"world_size", world_size},
               {"attempt", attempt},
               {"steps", steps},
               {"first_step", first_step},
               {"resumed_from", resumed_from.empty() ? Json(nullptr) : Json(resumed_from)},
               {"recipe_hash", recipe_hash},
               {"params_digest", params_digest},
               {"state_digest", state_digest},
               {"reduction", reduction},
               {"bucket_mib", bucket_mib},
               {"final_train_loss", final_train_loss ? Json(*final_train_loss) : Json(nullptr)},
               {"eval", nullptr},
               {"skipped_steps", skipped_steps},
               {"samples_per_s", samples_per_s},
               {"step_ms", {{"p50", step_ms_p50}, {"p95", step_ms_p95}}},
               {"step_split_ms",
                {{"compute", step_split.compute_ms},
                 {"exposed_communication", step_split.exposed_ms},
                 {"update", step_split.update_ms},
                 {"loader", step_split.loader_ms}}},
               {"seconds_to_first_step", seconds_to_first_step}};
  if (eval) {
    json["eval"] = {{"num_steps", eval->num_steps},
                    {"accuracy", eval->accuracy},
                    {"loss", eval->loss},
                    {"num_correct", eval->num_correct},
                    {"num_samples", eval->num_samples}};
  }
  json["memory_bytes"] = Json::array();
  for (const RankMemory& of_rank : memory) json["memory_bytes"].push_back(memory_json(of_rank));
  json["stop"] = stop_name(stop) != nullptr ? Json(stop_name(stop)) : Json(nullptr);
  json["durable_steps"] = durable_steps ? Json(*durable_steps) : Json(nullptr);
  json["saves"] = saves_json(saves, save_interval_steps);
  return json.dump(2) + "\n";
}

}  // namespace lockstep
