#!/usr/bin/env python3
"""Lockstep against PyTorch DDP over gloo, same network, same data, same machine, in turns.

    .deps/venv/bin/python benchmarks/compare_ddp.py --rounds 5

Every round runs each contestant once, in an order that is turned from round to round; a ratio is taken inside a
round, and the median and range over rounds are reported. Writes benchmarks/results/compare_ddp-<date>.json.
What each figure means: benchmarks/README.md.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from machine import PROGRAM, ROOT
from rounds import run_comparison, spread

# glibc hands large buffers back to the kernel at every step unless it is told to keep them.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}

# name: (who, memory format or DDP flags, environment)
CONTESTANTS = {
    "lockstep": ("lockstep", "contiguous", {}),
    "lockstep_channels_last": ("lockstep", "channels_last", {}),
    "lockstep_channels_last_malloc": ("lockstep", "channels_last", MALLOC),
    "ddp_default": ("ddp", [], {}),
    "ddp_best": ("ddp", ["--best"], {}),
    "ddp_best_malloc": ("ddp", ["--best"], MALLOC),
}
# (ours, theirs): what is compared with what.
RATIOS = [
    ("lockstep", "ddp_default"),
    ("lockstep_channels_last", "ddp_default"),
    ("lockstep_channels_last", "ddp_best"),
    ("lockstep_channels_last_malloc", "ddp_best_malloc"),
]


def lockstep_command(options, micro_batch, memory_format, folder):
    steps = options.steps * options.windows + options.warm_up
    settings = {
        "train.micro_batch_size": micro_batch,
        "train.micro_batches_per_step": options.ranks,
        "train.memory_format": f'"{memory_format}"',
    }
    command = [str(ROOT / "launch/mpirun.sh"), "-n", str(options.ranks), str(options.program), "train",
               str(ROOT / "launch/recipes/fashion_mnist.toml"), "--run-dir", f"{folder}/run",
               "--stop-after", str(steps)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return command


def ddp_command(options, micro_batch, flags):
    return [sys.executable, str(ROOT / "benchmarks/peers/ddp.py"), "--ranks", str(options.ranks),
            "--micro-batch", str(micro_batch), "--steps", str(options.steps), "--windows", str(options.windows),
            "--warm-up", str(options.warm_up), *flags]


def windows_images_per_s(options, micro_batch, metrics):
    """The median over windows of steps by the wall clock, as the peer's: all that happens between steps counts."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    ends = [line["unix_s"] for line in lines if line["event"] == "step"]
    firsts = range(options.warm_up - 1, len(ends) - options.steps, options.steps)
    images = options.steps * micro_batch * options.ranks
    return statistics.median(images / (ends[first + options.steps] - ends[first]) for first in firsts)


def images_per_s(options, name, micro_batch, commands):
    who, setting, environment = CONTESTANTS[name]
    with tempfile.TemporaryDirectory() as folder:
        if who == "lockstep":
            command = lockstep_command(options, micro_batch, setting, folder)
        else:
            command = ddp_command(options, micro_batch, setting)
        commands.setdefault(name, " ".join(f"{key}={value}" for key, value in environment.items()) + " "
                            + " ".join(command).replace(folder, "DIR").replace(f"{ROOT}/", ""))
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        if who == "ddp":
            return json.loads(done.stdout.strip().splitlines()[-1])["images_per_s"]
        return windows_images_per_s(options, micro_batch, pathlib.Path(folder, "run", "metrics.jsonl"))


def compare(options, micro_batch):
    rates, commands, names = {name: [] for name in CONTESTANTS}, {}, list(CONTESTANTS)
    for number in range(options.rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:
            rates[name].append(images_per_s(options, name, micro_batch, commands))
            print(f"micro-batch {micro_batch} round {number + 1} {name}: {rates[name][-1]:.0f} images/s", flush=True)
    ratios = {}
    for ours, theirs in RATIOS:
        ratios[f"{ours} / {theirs}"] = spread([a / b for a, b in zip(rates[ours], rates[theirs])])
    return {"micro_batch": micro_batch, "images_per_s": rates, "ratios": ratios, "commands": commands}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    run_comparison("compare_ddp", lambda micro_batch: compare(options, micro_batch), options.micro_batches, options.out,
                   "ratios", lambda each: f"micro-batch {each['micro_batch']}: ")


if __name__ == "__main__":
    main()
