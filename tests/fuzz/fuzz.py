#!/usr/bin/env python3
"""Builds and runs the fuzz targets of this folder (libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer).

    tests/fuzz/fuzz.py build                             configures and builds tests/fuzz/project
    tests/fuzz/fuzz.py run manifest --seconds 10         one target; what ctest does
    tests/fuzz/fuzz.py campaign --executions 10000000    all targets in turn; adds a run to benchmarks/results
    tests/fuzz/fuzz.py campaign names --executions 1000000    one target

Ctrl-C ends a campaign early; what was done until then is written as well.

A target starts from tests/fuzz/seeds/<target> and what earlier runs in the same build folder found. What it trips over is
left in <build>/found/<target>; put it into the seeds, with a test of its own, once it is mended. LOCKSTEP_FUZZ_SECONDS
makes the runs of ctest longer. Exit status 77: not run, because there is no clang with libFuzzer.
"""
import argparse
import base64
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED = 77
# Share of a campaign's executions: what runs fast has more to say in the same time.
SHARES = {"safetensors": 0.38, "manifest": 0.07, "names": 0.5, "recipe": 0.05}
DICTIONARIES = {"safetensors": "json", "manifest": "json", "names": "names", "recipe": "recipe"}
# Bytes of an input: a name, or the few lines of an attempt file; a document with all that it may have.
LONGEST = {"safetensors": 8192, "manifest": 8192, "names": 512, "recipe": 8192}
# An input may take this much, no more: readers bound what they take by the size of what they read. The time is of a
# clock on the wall, and a machine may stand still for seconds.
LIMITS = ["-malloc_limit_mb=64", "-rss_limit_mb=1024", "-timeout=60",
          "-report_slow_units=60"]
# Three times the executions in the same time: plain choice of the next input, none of them made smaller, short stacks of
# allocations. A report names the input, and one input can be run with all of them.
QUICK = ["-entropic=0", "-reduce_inputs=0", "-print_funcs=0", "-reload=0"]
ASAN = "malloc_context_size=1:quarantine_size_mb=16"


def find_clang():
    for name in ("clang++-14", "clang++"):
        path = shutil.which(name)
        if not path:
            continue
        runtime = subprocess.run([path, "--print-file-name=libclang_rt.fuzzer-x86_64.a"], capture_output=True, text=True)
        if pathlib.Path(runtime.stdout.strip()).is_absolute():
            return path
    return None


def build(folder):
    clang = find_clang()
    if not clang:
        print("not run: no clang++ with libFuzzer here (Debian: clang-14 and libclang-rt-14-dev; launch/setup.sh)")
        return SKIPPED
    command = ["cmake", "-S", str(HERE / "project"), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={clang}"]
    if shutil.which("ccache"):
        command.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
        os.environ.update(CCACHE_BASEDIR=str(ROOT), CCACHE_NOHASHDIR="1", CCACHE_MAXSIZE="10G")
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        return 1
    return subprocess.run(["cmake", "--build", str(folder)]).returncode


def start(folder, target, limits):
    """Starts a target; its messages are on stderr."""
    corpus, found = folder / "corpus" / target, folder / "found" / target
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    seeds = [str(HERE / "seeds" / target)] + ([str(ROOT / "launch/recipes")] if target == "recipe" else [])
    command = [str(folder / f"{target}_fuzz"), f"-dict={HERE / 'dictionaries' / DICTIONARIES[target]}.dict",
               f"-max_len={LONGEST[target]}", *LIMITS, *QUICK, *limits, "-print_final_stats=1", f"-artifact_prefix={found}/", str(corpus), *seeds]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace",
                            start_new_session=True,  # Ctrl-C is for the campaign, which ends it gracefully
                            env={**os.environ, "ASAN_OPTIONS": ASAN})


def figures(lines):
    """What libFuzzer says of a run: executions, coverage (edges), features (edges and how often), corpus."""
    state = [found for line in lines if (found := re.search(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)/", line))]
    if not state:
        return {}
    last = state[-1]
    done = [int(found[1]) for line in lines if (found := re.search(r"number_of_executed_units: (\d+)", line))]
    return {"executions": done[-1] if done else int(last[1]), "coverage_edges": int(last[2]),
            "features": int(last[3]), "corpus_inputs": int(last[4])}


def tell_found(folder, target, lines):
    print("".join(lines[-60:]))
    for path in sorted((folder / "found" / target).iterdir(), key=lambda each: each.stat().st_mtime)[-1:]:
        print(f"the input: {path}\nin base64: {base64.b64encode(path.read_bytes()).decode()}")


def run(folder, target, seconds):
    if not (folder / f"{target}_fuzz").exists():
        if find_clang():
            print(f"{folder} has no {target}_fuzz; build it: tests/fuzz/fuzz.py build --build {folder}")
            return 1
        print("not run: no clang++ with libFuzzer here (Debian: clang-14 and libclang-rt-14-dev; launch/setup.sh)")
        return SKIPPED
    process = start(folder, target, [f"-max_total_time={seconds}"])
    lines = list(process.stderr)
    if process.wait() != 0:
        tell_found(folder, target, lines)
        return 1
    result = figures(lines)
    print(f"{target}: {result['executions']} executions, nothing found; {result['coverage_edges']} edges covered")
    # A target that does not get past its seeds proves nothing.
    return 0 if result["executions"] > 1000 else 1


def progress(done, total, target, start_time):
    share = min(1.0, done / total)
    bar = "#" * int(30 * share)
    sys.stderr.write(f"\r[{bar:<30}] {100 * share:5.1f} %  {target:<12} {done:>10} of {total}  "
                     f"{time.monotonic() - start_time:6.0f} s ")
    sys.stderr.flush()


def run_to_count(folder, target, executions, tell):
    """Runs one target. Its figures, and whether it was ended early; None when it found something."""
    since, lines, is_cut = time.monotonic(), [], False
    process = start(folder, target, [f"-runs={executions}"])
    while True:
        try:
            for line in process.stderr:
                lines.append(line)
                if found := re.match(r"#(\d+)\s", line):
                    tell(int(found[1]))
            break
        except KeyboardInterrupt:
            is_cut = True
            process.send_signal(signal.SIGUSR1)  # libFuzzer ends, and says what it did
    if process.wait() != 0:
        tell_found(folder, target, lines)
        return None, is_cut
    told = figures(lines)
    told["seconds"] = round(time.monotonic() - since, 1)
    told["seeds"] = len(list((HERE / "seeds" / target).iterdir()))
    told["reports"] = 0
    return told, is_cut


def campaign(folder, executions, targets):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from machine import add_run, machine, result_path
    result = machine()
    result["command"] = " ".join(["tests/fuzz/fuzz.py campaign", *(targets if len(targets) == 1 else []),
                                  f"--executions {executions}"])
    result["targets"] = {}
    done, begin, whole = 0, time.monotonic(), sum(SHARES[target] for target in targets)
    for target in targets:
        told, is_cut = run_to_count(folder, target, int(executions * SHARES[target] / whole),
                                    lambda count: progress(done + count, executions, target, begin))
        if told is None:
            return 1
        done += told["executions"]
        result["targets"][target] = told
        if is_cut:
            break
    result["executions"] = done
    result["seconds"] = round(time.monotonic() - begin, 1)
    path = result_path("fuzz", result["date"])
    add_run(path, result)
    print(f"\n{done} executions, no report; written: {path}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["build", "run", "campaign"])
    parser.add_argument("target", nargs="?", choices=sorted(SHARES))
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/fuzz", help="folder of the programs")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("LOCKSTEP_FUZZ_SECONDS", "10")))
    parser.add_argument("--executions", type=int, default=10_000_000)
    chosen = parser.parse_args()
    if chosen.what == "run":
        if not chosen.target:
            parser.error("run needs a target")
        return run(chosen.build, chosen.target, chosen.seconds)
    rc = build(chosen.build)
    if chosen.what == "build" or rc != 0:
        return rc
    return campaign(chosen.build, chosen.executions, [chosen.target] if chosen.target else list(SHARES))


if __name__ == "__main__":
    sys.exit(main())
