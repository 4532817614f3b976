#pragma once
// Lifecycle: what every program of ours does around its work: settings of the process, joining the
// other ranks, stop signals, and leaving with the right exit code on every rank.

#include <functional>
#include <optional>

#include "lockstep/core/base/exit_code.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

/// Installs handlers for SIGUSR1 and SIGTERM: the first of them asks for a stop at the next step. A
/// SIGUSR1 after that changes nothing: whoever asks twice wants the checkpoint all the same. A
/// SIGTERM after that leaves at once with 143. Call at the very start, and again after libraries
/// that install handlers of their own are initialised.
void install_stop_signals();
/// Seconds since a stop was asked for; nothing while it was not. Any thread.
std::optional<double> asked_to_stop_s_ago();
/// From now on SIGTERM is ignored: Open MPI sends it to the ranks when one of them died, and that
/// is no request to stop. Any thread.
void note_lost_peer();

/// Joins the world, runs `body`, leaves. Collective: every rank of the launch, once a process, on
/// its main thread. Lifetime: the World is gone when it returns; nothing that `body` made may
/// outlive `body`. An error is logged, and the process ends with exit_code_for() of it, or with
/// what `body` returned; after the loss of a peer, or an error on this rank alone, the whole job is
/// ended. Returns the exit code for main to return. Errors of LibTorch and UsageError become
/// kInternal.
int run_ranks(int argc, char** argv, const std::function<Result<ExitCode>(World&)>& body);

}  // namespace lockstep
