#!/usr/bin/env bash
# mpirun with the manners that a training job needs:
#   launch/mpirun.sh -n 4 build/release/bin/lockstep train RECIPE.toml ...
# - SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1 to this script become SIGUSR1 to mpirun, which hands it to every rank:
#   all ranks save at the same step and leave with 85. A second SIGTERM, SIGINT or SIGHUP becomes SIGTERM to mpirun: the
#   ranks leave at once, with 143: that was wanted, so it stays what it is. A second SIGUSR1 is only SIGUSR1 again, which
#   changes nothing.
# - A SIGUSR1 that came before mpirun has ranks is lost there: it is sent again every second until all have left.
# - A request to stop that came before the program could handle it (138), or before it was started, is 85 too: nothing
#   was done that a checkpoint would have to hold.
# - A rank that was killed by a signal (mpirun: 137, 143, 139, 134 ...) is 75, "a peer failed, try again". Everything
#   else is passed on: 0 done, 64 usage, 65 data, 70 internal, 74 disk, 75 try again, 85 stopped after a checkpoint.
# - As root, and with more ranks than cores on this host, Open MPI 4 gets the settings that it then wants.
set -uo pipefail

# Job control gives mpirun a process group of its own: a Ctrl-C must reach this script alone.
set -m

# Before mpirun starts: a signal in between would end this script and leave mpirun alone.
mpirun_pid=
timer_pid=
signals=() # to hand on: USR1, or TERM when it is not the first
num_forwarded=0
forward() {
  while [ -n "$mpirun_pid" ] && [ "$num_forwarded" -lt "${#signals[@]}" ]; do
    kill -"${signals[num_forwarded]}" "$mpirun_pid" 2>/dev/null
    num_forwarded=$((num_forwarded + 1))
  done
  if [ -n "$mpirun_pid" ] && [ "$num_forwarded" -gt 0 ] && [ -z "$timer_pid" ]; then
    (while sleep 1 && kill -ALRM $$ 2>/dev/null; do :; done) </dev/null >/dev/null 2>&1 &
    timer_pid=$!
    disown "$timer_pid" # its end is no news
  fi
}
send_again() {
  [[ " ${signals[*]} " == *" TERM "* ]] || kill -USR1 "$mpirun_pid" 2>/dev/null
}
trap 'signals+=(USR1); forward' USR1
trap send_again ALRM
trap '[ ${#signals[@]} = 0 ] && signals+=(USR1) || signals+=(TERM); forward' TERM INT HUP

if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Open MPI counts cores, not hardware threads, and refuses more ranks; where they are spread over hosts, it knows better.
# Ranks that share a core must give it up while they wait, or each exchange lasts a time slice.
num_ranks=0
hosts=${SLURM_JOB_ID:-}
previous=
for argument in "$@"; do
  case $previous in
    -n | -np | --n | --np | -c) num_ranks=$argument ;;
  esac
  case $argument in
    -H | -host | --host | -hostfile | --hostfile | -machinefile | --machinefile | --default-hostfile) hosts=given ;;
    --oversubscribe | -oversubscribe) export OMPI_MCA_mpi_yield_when_idle=1 ;;
  esac
  previous=$argument
done
num_cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
if [ -z "$hosts" ] && [[ $num_ranks =~ ^[0-9]+$ ]] && [ "$num_ranks" -gt "$num_cores" ]; then
  export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
fi

if [ "${#signals[@]}" -gt 0 ]; then
  echo "mpirun.sh: told to stop before the start: nothing new to save" >&2
  exit 85
fi
"${LOCKSTEP_MPIRUN:-mpirun}" "$@" </dev/null &
mpirun_pid=$!
# What came in the middle of the start is handed on once the new process has become mpirun.
[ "${#signals[@]}" = 0 ] || sleep 0.5
forward

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

# Its group: the timer sleeps in a process of its own.
[ -z "$timer_pid" ] || kill -- "-$timer_pid" 2>/dev/null

if [[ " ${signals[*]} " == *" TERM "* ]]; then
  # mpirun tells no rank's code then. One that had saved in time is to go on from.
  case $rc in 0 | 85) ;; *) rc=143 ;; esac
elif [ "$rc" = 138 ] && [ "$num_forwarded" -gt 0 ]; then
  echo "mpirun.sh: told to stop before the ranks could answer: nothing new to save" >&2
  rc=85
elif [ "$rc" -gt 128 ]; then
  echo "mpirun.sh: a rank was killed by signal $((rc - 128)): 75, try again" >&2
  rc=75
fi
exit "$rc"
