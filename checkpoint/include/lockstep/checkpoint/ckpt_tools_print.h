#pragma once
// The results of the checkpoint tools as text for people and as one JSON value for scripts. Pure.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/checkpoint/ckpt_tools.h"

namespace lockstep {

std::string list_text(const std::vector<CheckpointSummary>& checkpoints);
std::string list_json(const std::vector<CheckpointSummary>& checkpoints);
enum class InspectDetail : uint8_t {
  kPicture,  ///< tensors against ranks, on one screen
  kAll,      ///< also every tensor's place and every shard's runs
};
std::string inspect_text(const Manifest& manifest, InspectDetail detail);
/// The manifest's members, and "owners": the bytes of each tensor that each shard holds.
std::string inspect_json(const Manifest& manifest);
std::string verify_text(const VerifyReport& report);
std::string verify_json(const VerifyReport& report);
std::string diff_text(const DiffReport& report);
std::string diff_json(const DiffReport& report);
std::string export_text(const ExportReport& report);
std::string export_json(const ExportReport& report);
std::string reshard_text(const ReshardReport& report);
std::string reshard_json(const ReshardReport& report);
std::string prune_text(const PruneReport& report);
std::string prune_json(const PruneReport& report);

}  // namespace lockstep
