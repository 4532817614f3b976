#!/usr/bin/env bash
# Everything from nothing: set-up, build, and every test that needs no GPU. Continuous integration calls this.
#   tests/run.sh [ctest arguments]      e.g. tests/run.sh -R flat, tests/run.sh -L unit
# LOCKSTEP_PRESET chooses another preset (asan, tsan, ...); LOCKSTEP_FUZZ_SECONDS is how long each parser is fuzzed.
# Exit status 0 only when all tests passed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
preset=${LOCKSTEP_PRESET:-release}
log=build/$preset/configure.log

say() { printf '[tests] %4d s  %s\n' "$SECONDS" "$*"; }

bash launch/setup.sh --optional
mkdir -p "build/$preset"
say "configuring preset $preset"
if ! cmake --preset "$preset" -DLOCKSTEP_BUILD_TESTS=ON -DLOCKSTEP_BUILD_BENCHMARKS=ON >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
say "building everything"
cmake --build --preset "$preset" -j "$(nproc)"
say "testing"
rc=0
ctest --preset "$preset" -j "$(nproc)" "$@" || rc=$?
if [ $rc = 0 ]; then
  say "passed"
else
  say "FAILED (ctest exit status $rc); one test again: ctest --preset $preset -R NAME"
fi
exit $rc
