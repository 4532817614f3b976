#!/usr/bin/env bash
# A chain of jobs, each starting when the one before has ended, whatever its end: for clusters that don't requeue.
#   launch/slurm/chain.sh COUNT [sbatch options] launch/slurm/train.sbatch RECIPE.toml --run-dir /shared/runs/one
# Every job resumes where the last one stopped; jobs after the end of training find nothing to do and leave with 0.
# Prints the job ids, one a line.
set -euo pipefail

usage() { echo "usage: chain.sh COUNT [sbatch options] train.sbatch RECIPE.toml ..." >&2; exit 64; }
[ $# -ge 2 ] || usage
count=$1
shift
case $count in '' | *[!0-9]* | 0) usage ;; esac

previous=
for ((job = 1; job <= count; ++job)); do
  # --parsable prints "id" or "id;cluster".
  id=$(LOCKSTEP_REQUEUE=never sbatch --parsable ${previous:+--dependency=afterany:$previous} "$@")
  previous=${id%%;*}
  echo "$previous"
done
