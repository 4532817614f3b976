#!/usr/bin/env python3
"""Runs a benchmark that prints JSON and keeps its output with machine, versions and command.

    .deps/venv/bin/python benchmarks/record.py step -- taskset -c 0 build/release/bin/step_bench --micro-batch 16

Adds a run to benchmarks/results/NAME-<date>.json; runs of one day and name stand in one file, in the order of time.
"""
import argparse
import json
import subprocess
import sys

from machine import ROOT, add_run, machine, result_path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    chosen = parser.parse_args()
    command = [word for word in chosen.command if word != "--"]
    run = machine()
    run["command"] = " ".join(command)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode != 0:
        return done.returncode
    run["output"] = json.loads(done.stdout)
    out = result_path(chosen.name, run["date"])
    add_run(out, run)
    print(done.stdout, end="")
    print(f"written: {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
