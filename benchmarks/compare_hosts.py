#!/usr/bin/env python3
"""Lockstep against PyTorch DDP over gloo, 2 ranks: in shared memory, and on two hosts joined by a link of a given rate.

    .deps/venv/bin/python benchmarks/compare_hosts.py --rounds 3

Hosts are namespaces of this machine (hosts.py; needs root). Every round runs each contestant of a case once, in an order
that turns from round to round; ratios are taken inside a round. Both have fused AdamW, one processor a rank and the same
allocator settings; the ConvNet is channels-last on both sides. Exposed is the share of a step in which a rank did nothing
but wait for others, as metrics.jsonl has it. Writes benchmarks/results/compare_hosts-<date>.json.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from compare_ddp import MALLOC
from machine import PROGRAM, ROOT
from rounds import run_comparison, spread

RECIPE = """
{model}
[train]
seed = 3
steps = 100000
micro_batch_size = {micro_batch}
micro_batches_per_step = 2
memory_format = "{memory_format}"
bucket_mib = {bucket_mib}
device = "cpu"
[optimizer]
name = "adamw"
learning_rate = 0.001
[eval]
every_epochs = 0
"""
MLP = '[model]\nname = "mlp"\nhidden = {hidden}\n[data]\nname = "csv"\npath = "{table}"\nlabel = "label"'
# 49.1M parameters in one layer of 49M, and 50.4M in 13 layers of which 12 have 4.2M each.
HIDDEN = {"mlp": [7000, 7000], "deep-mlp": [2048] * 13}
# Model and data, and the memory format.
MODELS = {
    **{name: (MLP, "contiguous") for name in HIDDEN},
    "convnet": ('[model]\nname = "convnet"\n[data]\nname = "fashion_mnist"', "channels_last"),
}
# name: (model, micro-batch, rate of the link or none for shared memory, steps to measure, steps before)
CASES = {
    "mlp-shared-memory": ("mlp", 32, None, 12, 6),
    "mlp-1gbit": ("mlp", 32, "1gbit", 8, 6),
    "deep-mlp-1gbit": ("deep-mlp", 32, "1gbit", 8, 6),
    "convnet-shared-memory": ("convnet", 64, None, 100, 20),
    "convnet-1gbit": ("convnet", 64, "1gbit", 60, 20),
    "convnet-1gbit-16": ("convnet", 16, "1gbit", 60, 20),
    "convnet-100mbit": ("convnet", 64, "100mbit", 20, 5),
}


def place(options, rate):
    """How two ranks are started: here, or on two hosts."""
    if rate is None:
        return [str(ROOT / "launch/mpirun.sh"), "-n", "2"]
    return [sys.executable, str(ROOT / "benchmarks/hosts.py"), "--hosts", "2", "--rate", rate, "--", "mpirun", "-n", "2"]


def run(name, command, environment):
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", **MALLOC, **environment}, capture_output=True,
                          text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def forwarded(names):
    """mpirun hands its environment on to its own host alone."""
    return [word for name in names for word in ("-x", name)]


def lockstep(options, case, folder, bucket_mib=0):
    """Milliseconds of a step of a case, one of CASES or alike, by the wall clock, the share of it in which a rank only
    waited, and the size of buckets."""
    model, micro_batch, rate, steps, before = case
    table, recipe = f"{folder}/table.csv", pathlib.Path(folder, "recipe.toml")
    if model in HIDDEN:
        subprocess.run([options.program, "data", "make-tabular", "--rows", "8000", "--features", "10", "--seed", "1", table],
                       check=True, stdout=subprocess.DEVNULL)
    tables, memory_format = MODELS[model]
    tables = tables.format(table=table, hidden=HIDDEN.get(model))
    recipe.write_text(RECIPE.format(model=tables, micro_batch=micro_batch, bucket_mib=bucket_mib, memory_format=memory_format))
    hand_on = forwarded(["OMP_NUM_THREADS", *MALLOC]) if rate else []
    run("lockstep", [*place(options, rate), *hand_on, str(options.program), "train", str(recipe), "--run-dir",
                             f"{folder}/run", "--report", f"{folder}/report.json", "--stop-after", str(before + steps), "--set", "checkpoint.keep_latest=1"], {})
    lines = [json.loads(line) for line in pathlib.Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["event"] == "step"][before - 1:before + steps]
    ms = (lines[-1]["unix_s"] - lines[0]["unix_s"]) / (len(lines) - 1) * 1e3
    exposed = statistics.median(line["exposed_ms"] / line["step_ms"] for line in lines[1:])
    return ms, exposed, json.loads(pathlib.Path(folder, "report.json").read_text())["bucket_mib"]


def ddp(options, case, best):
    model, micro_batch, rate, steps, before = case
    environment = {"MASTER_ADDR": "10.91.7.1", "GLOO_SOCKET_IFNAME": "eth0"} if rate else {"GLOO_SOCKET_IFNAME": "lo"}
    hand_on = forwarded(["OMP_NUM_THREADS", *MALLOC, *environment]) if rate else []
    network = ["--model", "mlp", "--hidden", *map(str, HIDDEN[model])] if model in HIDDEN else ["--model", model]
    out = run("ddp", [*place(options, rate), *hand_on, sys.executable, str(ROOT / "benchmarks/peers/ddp.py"), *network,
                              "--micro-batch", str(micro_batch), "--warm-up", str(before), "--windows", "1",
                              "--steps", str(steps), *(["--best"] if best else ["--fused"])], environment)
    line = next(line for line in reversed(out.splitlines()) if line.startswith("{"))
    return micro_batch * 2 / json.loads(line)["images_per_s"] * 1e3


def compare(options, case):
    ms, exposed = {"lockstep": [], "ddp_best": []}, []
    for number in range(options.rounds):
        for name in list(ms) if number % 2 == 0 else list(reversed(ms)):
            if name == "lockstep":
                with tempfile.TemporaryDirectory() as folder:
                    took_ms, share, _ = lockstep(options, CASES[case], folder)
                exposed.append(share)
            else:
                took_ms = ddp(options, CASES[case], best=True)
            ms[name].append(took_ms)
            print(f"{case} round {number + 1} {name}: {took_ms:.1f} ms a step", flush=True)
    faster = spread([theirs / ours for ours, theirs in zip(ms["lockstep"], ms["ddp_best"])])
    return {"case": case, "step_ms": ms, "exposed_share": exposed, "ratios": {"times as fast as ddp_best": faster}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    run_comparison("compare_hosts", lambda case: compare(options, case), options.cases, options.out, "ratios",
                   lambda each: f"{each['case']}: ")


if __name__ == "__main__":
    main()
