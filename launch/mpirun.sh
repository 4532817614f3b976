#!/usr/bin/env bash
# mpirun with the manners that a training job needs:
#   launch/mpirun.sh -n 4 build/release/bin/lockstep train RECIPE.toml ...
# - SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 to this script become SIGUSR1 to mpirun, which hands it to every rank:
#   all ranks save at the same step and leave with 85. mpirun's own answer to SIGTERM leaves two seconds, then kills.
#   A second signal makes the ranks leave at once.
# - A rank that was killed (mpirun: 137 or 143; 138 when the signal came before the program could handle it) is 75,
#   "a peer failed, try again". Everything else is passed on:
#   0 done, 64 usage, 65 data, 70 internal, 74 disk, 75 try again, 85 stopped after a checkpoint.
# - As root, and with more ranks than processors, Open MPI 4 gets the settings that it then wants.
set -uo pipefail

# Job control gives mpirun a process group of its own: a Ctrl-C must reach this script alone.
set -m

if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Ranks that share a processor must give it up while they wait, or each exchange lasts a time slice.
for argument in "$@"; do
  case $argument in
    --oversubscribe | -oversubscribe) export OMPI_MCA_mpi_yield_when_idle=1 ;;
  esac
done

"${LOCKSTEP_MPIRUN:-mpirun}" "$@" </dev/null &
mpirun_pid=$!
trap 'kill -USR1 "$mpirun_pid" 2>/dev/null' TERM INT USR1

# wait returns early, above 128, whenever a trapped signal comes: go on until mpirun itself has gone.
while :; do
  wait "$mpirun_pid"
  rc=$?
  kill -0 "$mpirun_pid" 2>/dev/null || break
done
# The status of a child that has ended stays readable; this is the true one if the last wait was cut short.
wait "$mpirun_pid" 2>/dev/null
last=$?
[ "$last" = 127 ] || rc=$last

case $rc in
  137 | 138 | 143)
    echo "mpirun.sh: a rank was killed (mpirun's exit status $rc): 75, try again" >&2
    rc=75
    ;;
esac
exit "$rc"
