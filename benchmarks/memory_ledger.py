#!/usr/bin/env python3
"""Bytes that the ledger predicts from the layout against the growth of the process, on an MLP of 49.1M parameters.

    .deps/venv/bin/python benchmarks/record.py memory -- .deps/venv/bin/python benchmarks/memory_ledger.py

Prints one JSON object. Measured is the growth of dirty pages, private and shared, in smaps_rollup from before the model
was made to the end of two steps and one checkpoint; predicted is a sum over the layout. Exit status 1 when they are
more than 5 % apart. What each figure means: benchmarks/README.md.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from machine import PROGRAM, ROOT

RECIPE = """
[model]
name = "mlp"
hidden = [7000, 7000]
[data]
name = "csv"
path = "{table}"
label = "label"
[train]
seed = 3
steps = 2
micro_batch_size = 4
micro_batches_per_step = {micro_batches}
[optimizer]
name = "adamw"
learning_rate = 0.001
[eval]
every_epochs = 0
"""
CASES = [(1, 2), (1, 8), (2, 2), (2, 8)]  # ranks, micro-batches of a step


def measure(ranks, micro_batches):
    with tempfile.TemporaryDirectory() as folder:
        table, recipe, report = (str(pathlib.Path(folder, name)) for name in ("t.csv", "recipe.toml", "report.json"))
        subprocess.run([PROGRAM, "data", "make-tabular", "--rows", "200", "--features", "10", "--seed", "1", table],
                       check=True)
        pathlib.Path(recipe).write_text(RECIPE.format(table=table, micro_batches=micro_batches))
        command = [str(ROOT / "launch/mpirun.sh"), "-n", str(ranks), str(PROGRAM), "train", recipe, "--run-dir",
                   f"{folder}/run", "--report", report]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        bytes_by_use = json.loads(pathlib.Path(report).read_text())["memory_bytes"]
    ratios = [each["measured"] / each["predicted"] for each in bytes_by_use]
    return {"ranks": ranks, "micro_batches_per_step": micro_batches, "memory_bytes": bytes_by_use,
            "measured_over_predicted": ratios,
            "command": " ".join(command).replace(folder, "DIR").replace(f"{ROOT}/", "")}


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = [measure(*case) for case in CASES]
    json.dump({"benchmark": "memory ledger", "recipe": RECIPE, "results": results}, sys.stdout, indent=1)
    print()
    worst = max((ratio for result in results for ratio in result["measured_over_predicted"]), key=lambda r: abs(r - 1))
    if abs(worst - 1) > 0.05:
        sys.exit(f"measured / predicted is {worst:.3f}: more than 5 % apart")


if __name__ == "__main__":
    main()
