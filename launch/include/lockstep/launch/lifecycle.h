#pragma once
// Lifecycle: what every program of ours does around its work: settings of the process, joining the
// other ranks, stop signals, and leaving with the right exit code on every rank.

#include <functional>

#include "lockstep/core/base/exit_code.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

/// Installs handlers for SIGUSR1 and SIGTERM: the first asks for a stop at the next step, a second
/// one leaves at once with 128 + the signal's number. Open MPI sends SIGTERM to the ranks when one
/// of them died: after note_lost_peer() it no longer asks for a stop. Call after libraries that
/// install handlers of their own are initialised.
void install_stop_signals();
/// Whether a stop was asked for.
bool stop_was_requested();
void note_lost_peer();

/// Joins the world, runs `body`, leaves. An error is logged, and the process ends with
/// exit_code_for() of it, or with what `body` returned; after the loss of a peer, or an error on
/// this rank alone, the whole job is ended. Returns the exit code for main to return. Errors of
/// LibTorch and UsageError become kInternal.
int run_ranks(int argc, char** argv, const std::function<Result<ExitCode>(World&)>& body);

}  // namespace lockstep
