#pragma once
// Agreement: what all ranks must have in common before numbers can be equal, compared line by line
// at start. Knows text only; who calls decides what is in it (tensor names and shapes,
// hyperparameters, library versions).

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/control_plane.h"

namespace lockstep {

/// Compares `lines` over all ranks and returns the same verdict on each: OK, or an error that names
/// the first differing line, what rank 0 has there, and which ranks have what instead. Collective:
/// all ranks. Errors: kInvalidArgument on a difference; those of ControlPlane::all_gather. Cost:
/// one all_gather of 16 bytes a rank; the text travels only when the hashes differ.
Status check_same_on_all_ranks(ControlPlane& plane, std::string_view what,
                               const std::vector<std::string>& lines, Deadline deadline);

}  // namespace lockstep
