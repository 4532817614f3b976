#include "lockstep/distributed/accelerator.h"

#include "cuda_library.h"
#include "gpu_choice.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr double kOpenTimeoutS = 120;

struct Candidate {
  const CudaLibrary* library = nullptr;
  int index = 0;
  ChosenGpu gpu;
};

Result<Candidate> find_gpu(World& world, const AcceleratorOptions& options) {
  Candidate candidate;
  LOCKSTEP_ASSIGN_OR_RETURN(candidate.library, load_cuda_library());
  LOCKSTEP_ASSIGN_OR_RETURN(const auto visible, candidate.library->visible_gpus());
  LOCKSTEP_ASSIGN_OR_RETURN(candidate.index,
                            choose_gpu(static_cast<int>(visible.size()), world.local_rank(),
                                       world.num_local_ranks(), options.may_share));
  const VisibleGpu& gpu = visible[static_cast<size_t>(candidate.index)];
  candidate.gpu = {world.world_rank(), host_name(), gpu.uuid,
                   cat("cuda:", candidate.index, " ", gpu.name)};
  return candidate;
}

// NCCL takes two ranks of one host and GPU for a mistake, and ranks of one name for ranks of one host.
constexpr const char* kNcclHostName = "NCCL_HOSTID";

Status settle_sharing(World& world, const ChosenGpu& mine, bool may_share, Deadline deadline) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      const auto texts,
      world.control_plane().all_gather("each rank's GPU", gpu_text(mine), deadline));
  std::vector<ChosenGpu> chosen;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    LOCKSTEP_ASSIGN_OR_RETURN(ChosenGpu gpu, parse_gpu(static_cast<int>(rank), texts[rank]));
    chosen.push_back(std::move(gpu));
  }
  if (!may_share) return check_not_shared(chosen);
  if (is_shared(chosen, world.world_rank()) && !environment_variable(kNcclHostName))
    set_environment_variable(kNcclHostName, cat("rank", world.world_rank()));
  return Status::ok();
}

}  // namespace

Result<std::shared_ptr<Accelerator>> open_accelerator(World& world,
                                                      const AcceleratorOptions& options) {
  if (options.wanted == "cpu") return std::shared_ptr<Accelerator>();
  const Deadline deadline = Deadline::after_s(kOpenTimeoutS);
  ControlPlane& plane = world.control_plane();
  Result<Candidate> candidate = Candidate{};
  if (options.wanted != "cuda" && options.wanted != "auto") {
    candidate = invalid_argument_error(
        cat("the device is '", options.wanted, "'; known are auto, cpu and cuda"));
  } else if (world.process_lock() != nullptr) {
    candidate = unsupported_error("ranks that are threads of one process train on the processor");
  } else {
    candidate = find_gpu(world, options);
  }
  const Status found = plane.vote("a GPU for each rank", candidate.status(), deadline);
  if (!found.is_ok()) {
    const bool is_lack =
        found.code() == StatusCode::kUnsupported || found.code() == StatusCode::kNotFound;
    if (!is_lack) return found;
    if (options.wanted == "cuda") {
      return invalid_argument_error(cat("training is to be on GPUs: ", found.message(),
                                        "\nTo train on the processor, say so: device cpu, or auto"));
    }
    // A driver without what goes with it, or GPUs on some ranks alone: somebody wants to know.
    if (candidate.is_ok() || candidate.status().code() != StatusCode::kNotFound)
      world.log().warn(cat("training on the processor: ", found.message()));
    return std::shared_ptr<Accelerator>();
  }
  const Status own = settle_sharing(world, candidate->gpu, options.may_share, deadline);
  if (own.code() == StatusCode::kInvalidArgument && options.wanted == "auto") {
    world.log().warn(cat("training on the processor: ", own.message()));
    return std::shared_ptr<Accelerator>();
  }
  LOCKSTEP_RETURN_IF_ERROR(own);
  Result<std::shared_ptr<Accelerator>> opened =
      candidate->library->open(candidate->index, world.log());
  LOCKSTEP_RETURN_IF_ERROR(plane.vote("opening the GPUs", opened.status(), deadline));
  return opened;
}

}  // namespace lockstep
