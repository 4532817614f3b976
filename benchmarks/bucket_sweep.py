#!/usr/bin/env python3
"""The bucket size that Lockstep chooses at its start against a sweep of given ones: the time of a step on two hosts.

    .deps/venv/bin/python benchmarks/bucket_sweep.py --rounds 3

In every round each size is run once, in an order that turns; the ratio is the step time with the chosen size over that of
the best size of the sweep by its median over rounds. Hosts are namespaces (hosts.py; needs root). Writes
benchmarks/results/bucket_sweep-<date>.json.
"""
import argparse
import pathlib
import statistics
import tempfile

import compare_hosts
from machine import PROGRAM
from rounds import run_comparison, spread

RATES = {"100mbit": ("convnet", 64, "100mbit", 12, 3), "1gbit": ("convnet", 64, "1gbit", 50, 10),
         "10gbit": ("convnet", 64, "10gbit", 80, 10)}
SIZES_MIB = [0.07, 0.125, 0.25, 0.5, 1, 2, 8]


def compare(options, rate):
    ms, chosen_mib = {size: [] for size in [0, *SIZES_MIB]}, []
    for number in range(options.rounds):
        sizes = list(ms)[number % len(ms):] + list(ms)[:number % len(ms)]
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                took_ms, _, mib = compare_hosts.lockstep(options, RATES[rate], folder, bucket_mib=size)
            ms[size].append(took_ms)
            chosen_mib += [mib] if size == 0 else []
            print(f"{rate} round {number + 1} {mib:.2f} MiB{'' if size else ' (chosen)'}: {took_ms:.2f} ms a step", flush=True)
    best = min(SIZES_MIB, key=lambda size: statistics.median(ms[size]))
    ratio = spread([chosen / other for chosen, other in zip(ms[0], ms[best])])
    return {"rate": rate, "chosen_mib": chosen_mib, "step_ms_by_mib": {str(size or "chosen"): times for size, times in ms.items()}, "best_mib": best,
            "ratios": {"chosen over best": ratio}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    run_comparison("bucket_sweep", lambda rate: compare(options, rate), options.rates, options.out, "ratios",
                   lambda each: f"{each['rate']}, best {each['best_mib']} MiB: ")


if __name__ == "__main__":
    main()
