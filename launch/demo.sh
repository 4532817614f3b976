#!/usr/bin/env bash
# The main job on real data, from nothing: sets up, builds the program, trains the ConvNet on Fashion-MNIST with
# 2 ranks, stops it in the middle by a signal, goes on with 3 ranks to the end of the second epoch; then compares
# the state after 50 steps with that of an uninterrupted run on 1 rank, bit for bit.
# Exit status 0 only when the test accuracy is at least 0.88 and the bits are the same.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
preset=release
deps=${LOCKSTEP_DEPS_DIR:-$root/.deps}
lockstep=build/$preset/bin/lockstep
recipe=launch/recipes/fashion_mnist.toml
run=runs/demo-$(date -u +%Y%m%d-%H%M%S)
compared_step=50
stop_after_step=450
# How often to save is no part of the recipe: it changes no number.
training=(--run-dir "$run/training" --set checkpoint.every_steps=$compared_step
  --set checkpoint.keep_every_steps=$compared_step)

say() { printf '[demo] %4d s  %s\n' "$SECONDS" "$*"; }
fail() { printf '[demo] error: %s\n' "$*" >&2; exit 1; }

# field FILE NAME[.NAME]: a value of a JSON file.
field() {
  "$deps/venv/bin/python" -c '
import json, sys
value = json.load(open(sys.argv[1]))
for name in sys.argv[2].split("."):
    value = value[name]
print(value)' "$1" "$2"
}

# The checkpoint of a step that a training run has made durable, or nothing. Its directory appears by one rename.
checkpoint_of_step() { compgen -G "$1/checkpoints/gen-*-step-$(printf '%010d' "$2")" || true; }

# train RANKS LOG OPTION...: becomes the training run; call it in a subshell or in the background.
train() {
  local ranks=$1 log=$2
  shift 2
  exec launch/mpirun.sh -n "$ranks" "$lockstep" train "$recipe" "$@" >"$log" 2>&1
}

# A run that did not end as it should: the end of its log, then the reason.
failed_run() {
  tail -n 40 "$1" >&2
  fail "$2"
}

build() {
  mkdir -p "build/$preset"
  local log=build/$preset/configure.log
  say "configuring (log: $log)"
  cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; fail "cmake failed"; }
  say "building the program alone"
  cmake --build --preset "$preset" --target lockstep -j "$(nproc)"
}

# 2 ranks, a checkpoint every 50 steps; SIGUSR1 as soon as that of step $stop_after_step is durable.
train_and_stop() {
  local log=$run/1-two-ranks.log rc=0
  say "training with 2 ranks (log: $log)"
  train 2 "$log" "${training[@]}" --report "$run/1-two-ranks.json" &
  job=$!
  trap 'kill -TERM $job 2>/dev/null || true' EXIT
  while [ -z "$(checkpoint_of_step "$run/training" $stop_after_step)" ]; do
    kill -0 $job 2>/dev/null || failed_run "$log" "training ended before step $stop_after_step"
    sleep 0.2
  done
  say "step $stop_after_step is durable: SIGUSR1 to mpirun"
  kill -USR1 $job
  wait $job || rc=$?
  trap - EXIT
  [ $rc = 85 ] || failed_run "$log" "expected exit status 85 (stopped after a checkpoint), found $rc"
  say "all ranks have stopped after step $(field "$run/1-two-ranks.json" steps), exit status 85"
}

resume() {
  local log=$run/2-three-ranks.log
  say "resuming with 3 ranks, to the end of epoch 2 (log: $log)"
  (train 3 "$log" "${training[@]}" --report "$run/2-three-ranks.json") || failed_run "$log" "the resumed run failed"
}

uninterrupted() {
  local log=$run/3-one-rank.log
  say "for comparison: $compared_step steps in one go with 1 rank (log: $log)"
  (train 1 "$log" --run-dir "$run/comparison" --stop-after $compared_step --report "$run/3-one-rank.json") ||
    failed_run "$log" "the run on 1 rank failed"
}

report() {
  local accuracy images digest mine theirs rc=0
  accuracy=$(field "$run/2-three-ranks.json" eval.accuracy)
  images=$(field "$run/1-two-ranks.json" samples_per_s)
  digest=$(field "$run/2-three-ranks.json" state_digest)
  mine=$(field "$(checkpoint_of_step "$run/training" $compared_step)/manifest.json" state_digest)
  theirs=$(field "$run/3-one-rank.json" state_digest)
  say "done; everything is in $run"
  printf '  test accuracy    %s (at least 0.88)\n' "$accuracy"
  printf '  images/s         %.0f on 2 ranks, %.0f on 3\n' "$images" "$(field "$run/2-three-ranks.json" samples_per_s)"
  printf '  state digest     %s\n' "$digest"
  if [ "$mine" = "$theirs" ]; then
    printf '  after %d steps   %s with 2 ranks = %s with 1 rank: the same bits\n' $compared_step "$mine" "$theirs"
  else
    printf '  after %d steps   %s with 2 ranks, %s with 1 rank: DIFFERENT\n' $compared_step "$mine" "$theirs"
    rc=1
  fi
  awk -v a="$accuracy" 'BEGIN { exit !(a >= 0.88) }' || { echo "  the accuracy is too low"; rc=1; }
  return $rc
}

bash launch/setup.sh
build
mkdir -p "$run"
train_and_stop
resume
uninterrupted
report
