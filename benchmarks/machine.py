"""What a figure was measured on: shared by everything here that writes a result."""
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/release/bin/lockstep"


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return "not there"
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[0]


def machine():
    cpu = next(line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    commit = first_line("git", "-C", str(ROOT), "rev-parse", "HEAD")
    changed = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD"], capture_output=True).returncode
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu.split(":")[1].strip(), "num_cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(), "load_before": os.getloadavg()[0],
        "commit": commit + (" with changes" if changed else ""),
        "torch": first_line(sys.executable, "-c", "import torch; print(torch.__version__)"),
        "mpirun": first_line("mpirun", "--version"), "compiler": first_line("g++", "--version"),
    }


def result_path(name, date):
    return ROOT / f"benchmarks/results/{name}-{date[:10]}.json"


def add_run(path, run):
    """Adds a run to a result file; the ones that are there stay."""
    result = json.loads(path.read_text()) if path.exists() else {"runs": []}
    result["runs"].append(run)
    path.write_text(json.dumps(result, indent=1) + "\n")
