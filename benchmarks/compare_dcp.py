#!/usr/bin/env python3
"""Checkpoints of Lockstep against PyTorch's distributed checkpoints (DCP): same bytes, ranks and disk, in turns.

    .deps/venv/bin/python benchmarks/compare_dcp.py --dir FOLDER_ON_THE_DISK --rounds 5

Every round runs each contestant once, each in processes of its own, in an order that is turned from round to round; a
ratio is taken inside a round, and the median and range over rounds are reported. Writes
benchmarks/results/compare_dcp-<date>.json. What each figure means: benchmarks/README.md.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

from machine import ROOT
from rounds import run_comparison, spread

BENCH = ROOT / "build/release/bin/checkpoint_bench"
# name of the ratio: (ours, theirs); the ratio is time of theirs / time of ours.
RATIOS = {
    "save": ("save", "save"),
    "save, DCP as durable as ours": ("save", "save_durable"),
    "stall of an asynchronous save": ("stall", "stall"),
    "load from the disk": ("load", "load"),
}


def command_of(name, options, mib, folder):
    if name == "lockstep":
        return [str(ROOT / "launch/mpirun.sh"), "-n", str(options.ranks), str(options.bench), "--dir", folder,
                "--mib", str(mib), "--rounds", str(options.repeats)]
    threads = {"dcp": "1", "dcp_threads": "2"}[name]
    return [sys.executable, str(ROOT / "benchmarks/peers/dcp.py"), "--dir", folder, "--mib", str(mib),
            "--ranks", str(options.ranks), "--rounds", str(options.repeats), "--threads", threads, "--pin"]


def run_one(name, options, mib, commands):
    folder = os.path.join(options.dir, f"compare-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        command = command_of(name, options, mib, folder)
        commands.setdefault(name, " ".join(command).replace(folder, "DIR").replace(f"{ROOT}/", ""))
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        report = json.loads(done.stdout[done.stdout.index("{"):])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report["medians"] = {key: statistics.median(values) for key, values in report["seconds"].items()}
    return report


def compare(options, mib):
    names, reports, commands = ["lockstep", "dcp", "dcp_threads"], [], {}
    for number in range(options.rounds):
        turn = number % len(names)
        reports.append({name: run_one(name, options, mib, commands) for name in names[turn:] + names[:turn]})
        for name in names:
            told = ", ".join(f"{key} {value:.3f}" for key, value in reports[-1][name]["medians"].items())
            print(f"{mib} MiB round {number + 1} {name}: {told}", flush=True)
    ratios = {}
    for peer in names[1:]:
        for name, (ours, theirs) in RATIOS.items():
            ratios[f"{name}: {peer} / lockstep"] = spread(
                [report[peer]["medians"][theirs] / report["lockstep"]["medians"][ours] for report in reports])
    return {"mib": mib, "ratios_of_time": ratios, "commands": commands, "rounds": reports}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", required=True, help="an existing folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="in a process, after one of warm-up")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mib", type=int, nargs="+", default=[1024, 64])
    parser.add_argument("--bench", type=pathlib.Path, default=BENCH)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    run_comparison("compare_dcp", lambda mib: compare(options, mib), options.mib, options.out, "ratios_of_time",
                   lambda each: f"{each['mib']} MiB, ")


if __name__ == "__main__":
    main()
