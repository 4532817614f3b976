#!/usr/bin/env python3
"""Bytes that the disk gives and takes for a checkpoint, by the kernel's count, against those of the state; each
checkpoint is saved on one number of ranks and read on another.

    .deps/venv/bin/python benchmarks/record.py storage_bytes -- .deps/venv/bin/python benchmarks/storage_bytes.py --dir DIR

Prints one JSON object. DIR must lie on a disk: what is kept in memory is not counted. What each figure means:
benchmarks/README.md.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from machine import PROGRAM, ROOT
from memory_ledger import RECIPE

PAIRS = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 3), (3, 4), (4, 1), (4, 3)]  # saved on, read on
STATE_COPIES = 3  # parameters and two optimizer slots


def counted_train(ranks, folder, *more):
    """Runs to the end; bytes that all ranks together had from the disk and gave it."""
    counted = f'"$@" && cat /proc/$$/io > {folder}/io-$OMPI_COMM_WORLD_RANK'
    command = [str(ROOT / "launch/mpirun.sh"), "-n", str(ranks), "--oversubscribe", "sh", "-c", counted, "sh", str(PROGRAM), "train",
               f"{folder}/recipe.toml", "--run-dir", f"{folder}/run", "--report", f"{folder}/report.json", "--stop-after", "1",
               *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    counts = {"read": 0, "written": 0}
    for rank in range(ranks):
        text = pathlib.Path(folder, f"io-{rank}").read_text()
        counts["read"] += int(re.search(r"^read_bytes: (\d+)", text, re.MULTILINE).group(1))
        counts["written"] += int(re.search(r"^write_bytes: (\d+)", text, re.MULTILINE).group(1))
    return counts


def drop_from_cache(folder):
    for path in pathlib.Path(folder).rglob("*.*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(saved_on, read_on, parent):
    folder = os.path.join(parent, f"storage-bytes-{os.getpid()}")
    os.makedirs(folder)
    try:
        table = os.path.join(folder, "t.csv")
        subprocess.run([PROGRAM, "data", "make-tabular", "--rows", "200", "--features", "10", "--seed", "1", table],
                       check=True)
        pathlib.Path(folder, "recipe.toml").write_text(RECIPE.format(table=table, micro_batches=4))
        saved = counted_train(saved_on, folder)
        report = json.loads(pathlib.Path(folder, "report.json").read_text())
        state = STATE_COPIES * report["memory_bytes"][0]["parameters"]
        drop_from_cache(f"{folder}/run")
        read = counted_train(read_on, folder)
    finally:
        shutil.rmtree(folder)
    return {"saved_on": saved_on, "read_on": read_on, "state_bytes": state, "written": saved["written"], "read": read["read"],
            "written_over_state": saved["written"] / state, "read_over_state": read["read"] / state}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", required=True, help="an existing folder on the disk to measure")
    folder = parser.parse_args().dir
    json.dump({"benchmark": "storage bytes", "recipe": RECIPE, "results": [measure(*pair, folder) for pair in PAIRS]},
              sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
