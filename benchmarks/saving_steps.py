#!/usr/bin/env python3
"""How long steps take while a checkpoint is being written behind them, against those of the same run with a quiet disk.

    .deps/venv/bin/python benchmarks/record.py saving_steps -- .deps/venv/bin/python benchmarks/saving_steps.py

An MLP of 9.0M parameters (109 MB of state), a save every 10 steps with checkpoint.mode = "async". Prints one JSON object.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from machine import PROGRAM, ROOT

RECIPE = """
[model]
name = "mlp"
hidden = [3000, 3000]
[data]
name = "csv"
path = "{table}"
label = "label"
[train]
seed = 3
steps = {steps}
micro_batch_size = 32
micro_batches_per_step = 2
[optimizer]
name = "adamw"
learning_rate = 0.0001
[eval]
every_epochs = 0
[checkpoint]
mode = "async"
when_busy = "skip"
every_steps = 10
keep_latest = 1
"""
WARM_UP = 20


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def measure(ranks, steps, folder):
    table, recipe = str(pathlib.Path(folder, "t.csv")), str(pathlib.Path(folder, "recipe.toml"))
    subprocess.run([PROGRAM, "data", "make-tabular", "--rows", "2000", "--features", "10", "--seed", "1", table],
                   check=True, stdout=subprocess.DEVNULL)
    pathlib.Path(recipe).write_text(RECIPE.format(table=table, steps=steps))
    command = [str(ROOT / "launch/mpirun.sh"), "-n", str(ranks), str(PROGRAM), "train", recipe, "--run-dir",
               f"{folder}/run-{ranks}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in pathlib.Path(folder, f"run-{ranks}", "metrics.jsonl").read_text().splitlines()]
    saves = [line for line in lines if line["event"] == "save" and line["status"] == "durable"]
    behind = set()
    for save in saves:
        behind.update(range(save["saved_num_steps"] + 1, save["num_steps"] + 1))
    step_ms = {line["num_steps"]: line["step_ms"] for line in lines if line["event"] == "step"}
    writing = [ms for number, ms in step_ms.items() if number > WARM_UP and number in behind]
    quiet = [ms for number, ms in step_ms.items() if number > WARM_UP and number not in behind]
    parts = {"writing": writing, "quiet": quiet}
    return {"ranks": ranks, "num_saves": len(saves),
            "stall_ms": statistics.median(save["stall_ms"] for save in saves[:-1]),
            **{name: {"num_steps": len(ms), "p50_ms": statistics.median(ms), "p99_ms": quantile(ms, 0.99)}
               for name, ms in parts.items()},
            "p50_ratio": statistics.median(writing) / statistics.median(quiet),
            "p99_ratio": quantile(writing, 0.99) / quantile(quiet, 0.99),
            "command": " ".join(command).replace(folder, "DIR").replace(f"{ROOT}/", "")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dir", help="a folder on the disk to write to")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
        results = [measure(ranks, chosen.steps, folder) for ranks in chosen.ranks]
    json.dump({"benchmark": "saving_steps", "recipe": RECIPE, "results": results}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
