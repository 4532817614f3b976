#!/usr/bin/env bash
# The GPU suite, on a machine with one GPU or more, from a build or from a package (launch/package.sh):
#   tests/gpu.sh [--out FOLDER] [PART ...]          all parts within 9 minutes; each alone:
#     kernels ranks invariance checkpoints memory failures bench sanitizer
# On one GPU ranks take turns, and NCCL is told that they are on hosts of their own: slow, and right. Ends with
# FOLDER/report.md and report.json (default: build/gpu, or gpu-report beside the package); 0 if nothing failed. A figure
# that misses its bar is no failure: "not met". --emulated FOLDER: without a GPU (tests/emulated_gpu), and without figures.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${LOCKSTEP_PACKAGE:-}" ]; then
  bin=$here/bin tests=$here/bin out=$here/gpu-report
else
  bin=$here/build/release/bin tests=$here/build/release/tests out=$here/build/gpu
fi
exec python3 "$here/tests/gpu/suite.py" --bin "$bin" --tests "$tests" --default-out "$out" "$@"
