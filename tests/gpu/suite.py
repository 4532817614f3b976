#!/usr/bin/env python3
"""Runs the parts of the GPU suite and writes what came of them. Started by tests/gpu.sh."""
import argparse
import contextlib
import gzip
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import benches

BUDGET_S = 9 * 60

RECIPE = """
[model]
name = "convnet"
dropout = 0.3
batch_norm = true
[data]
name = "fashion_mnist"
path = "{data}"
[train]
seed = 3
steps = {steps}
micro_batch_size = 8
micro_batches_per_step = 12
memory_format = "channels_last"
bucket_mib = 0.5
device = "{device}"
[optimizer]
name = "{optimizer}"
learning_rate = 0.005
[clip]
max_norm = 0.5
[eval]
every_epochs = 0
[checkpoint]
every_steps = {every}
mode = "{mode}"
"""


# 49 million parameters: what LibTorch rounds up and keeps for itself is nothing beside them.
LARGE = """
[model]
name = "mlp"
hidden = [7000, 7000]
[data]
name = "csv"
path = "{data}"
label = "label"
[train]
seed = 3
steps = 2
micro_batch_size = 4
micro_batches_per_step = 8
device = "{device}"
[optimizer]
name = "adamw"
learning_rate = 0.001
[eval]
every_epochs = 0
"""


class Failed(Exception):
    """What a part says when something is not as it must be."""


class OutOfTime(Failed):
    """What a part says that the suite's time did not last for."""


class NotMet(Exception):
    """What a part says when all of it ran and a figure misses its bar."""


def check(is_true, what):
    if not is_true:
        raise Failed(what)


def processes_of(session):
    """The folders below /proc of a session's processes."""
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session:
                yield entry
        except (OSError, ValueError, IndexError):
            continue


def end_session(session):
    """Kills all of it: mpirun gives each of its ranks a process group of its own."""
    for entry in processes_of(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(entry.name), signal.SIGKILL)


class Suite:
    def __init__(self, chosen):
        self.bin = pathlib.Path(chosen.bin)
        self.tests = pathlib.Path(chosen.tests)
        self.out = pathlib.Path(chosen.out or chosen.default_out).resolve()
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self.emulation = pathlib.Path(chosen.emulated).resolve() if chosen.emulated else None
        self.end = time.monotonic() + BUDGET_S
        self.figures = {}

    def left_s(self):
        left = self.end - time.monotonic()
        if left <= 0:
            raise OutOfTime(f"the {BUDGET_S} s of the suite are over; each part can be run alone")
        return left

    def is_sharing(self, count):
        """Whether so many ranks have less than a GPU each."""
        return bool(self.emulation) or len(gpu_names()) < count

    def environment(self, **more):
        env = dict(os.environ, OMP_NUM_THREADS="1", NCCL_SOCKET_IFNAME="lo", NCCL_IB_DISABLE="1", **more)
        if self.emulation:
            env.update(LD_PRELOAD=str(self.emulation / "libemulated_gpu.so"),
                       LOCKSTEP_CUDA_LIBRARY=str(self.emulation / "liblockstep_cuda_emulated.so"))
        if os.geteuid() == 0:
            env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        return env

    def ranks(self, count, command, names_hosts=True):
        """A command on several ranks. Each is a host of its own for NCCL, which refuses two on one GPU otherwise."""
        if count == 1:
            return command
        each = ["-x", "PATH", "-x", "LD_LIBRARY_PATH"] if "LD_LIBRARY_PATH" in os.environ else []
        words = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", *each]
        for rank in range(count):
            words += [":"] if rank else []
            names = ["-x", f"NCCL_HOSTID=rank{rank}"] if names_hosts else []
            words += ["-n", "1", *names, *map(str, command)]
        return words

    def run(self, name, command, timeout_s=120, want=0, **env):
        """Runs to the end, keeps the output under `name`. Fails on another exit code than `want` (None: any)."""
        log = self.out / f"{name}.log"
        limit_s = min(timeout_s, self.left_s())
        begin = time.monotonic()
        with open(log, "w") as file:
            process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT,
                                       env=self.environment(**env), start_new_session=True)
            try:
                code = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                end_session(process.pid)
                process.wait()
                self.left_s()
                raise Failed(f"{name}: not done within {time.monotonic() - begin:.0f} s; {log.name}") from None
        text = log.read_text(errors="replace")
        if want is not None and code != want:
            raise Failed(f"{name}: exit code {code}, expected {want}; {log.name}:\n" + text[-1500:])
        return text

    # Data and recipes of a run.

    def data(self):
        """Images whose label can be seen: 1,200 to learn from, 200 to be tested on."""
        folder = self.out / "data"
        if folder.exists():
            return folder
        folder.mkdir()
        for part, count in (("train", 1200), ("t10k", 200)):
            labels = bytes(i * 7 % 10 for i in range(count))
            pixels = bytearray()
            for i, label in enumerate(labels):
                pixels += bytes((x * (label + 2) + y * (i % 5 + 1)) * 11 % 256 for y in range(28) for x in range(28))
            with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb", 1) as file:
                file.write(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
            with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb", 1) as file:
                file.write(struct.pack(">II", 0x801, count) + labels)
        return folder

    def recipe(self, name, **values):
        values = {"device": "cuda", "optimizer": "adamw", "steps": 6, "every": 0, "mode": "sync", **values}
        path = self.out / f"{name}.toml"
        path.write_text(RECIPE.format(data=self.data(), **values))
        return path

    def train(self, name, ranks, *words, want=0, timeout_s=120, recipe=None, names_hosts=True, **values):
        """A run's report."""
        recipe = recipe or self.recipe(name, **values)
        report = self.out / f"{name}.json"
        self.run(name, self.ranks(ranks, [self.bin / "lockstep", "train", recipe, "--share-gpu", "--report", report,
                                          *words], names_hosts), want=want, timeout_s=timeout_s)
        return json.loads(report.read_text()) if report.exists() else {}

    # The parts.

    def kernels(self):
        self.run("kernels", [self.tests / "gpu_test", "--gtest_filter=Gpu*:-GpuTree*:GpuTraining*:GpuWatchdog*"])

    def ranks_part(self):
        digests = {}
        for ranks in (1, 2, 4):
            text = self.run(f"ranks-{ranks}", self.ranks(ranks, [self.tests / "gpu_test",
                                                                 "--gtest_filter=Usable/NcclConformance*:GpuWorld*:GpuTree*:GpuTraining*"]))
            check("Usable/NcclConformance.Holds/" in text, "NCCL's conformance suite was not run")
            lines = sorted(line for line in text.splitlines() if line.startswith("digest "))
            check(len(lines) == 2, f"{ranks} ranks printed {len(lines)} digests")
            digests[ranks] = lines
        check(len({tuple(lines) for lines in digests.values()}) == 1, f"digests differ: {digests}")

    def invariance(self):
        # What is emulated takes a processor's time: fewer steps there, and two ranks are those of --share-gpu.
        worlds = {"adamw": (1, 2, 3), "sgd": (1, 3)} if self.emulation else {"adamw": (1, 2, 3, 4), "sgd": (1, 2, 3, 4)}
        steps = 3 if self.emulation else 6
        for optimizer, counts in worlds.items():
            found = {ranks: self.train(f"invariance-{optimizer}-{ranks}", ranks, optimizer=optimizer, steps=steps)["state_digest"]
                     for ranks in counts}
            check(len(set(found.values())) == 1, f"{optimizer}: digests differ: {found}")
            self.figures[f"digest_{optimizer}"] = found[1]
        # --share-gpu alone is enough.
        alone = self.train("invariance-share-gpu", 2, optimizer="sgd", steps=steps, names_hosts=False)["state_digest"]
        check(alone == found[1], f"sgd with --share-gpu alone: digest {alone}, expected {found[1]}")
        self.bf16_and_native()

    def bf16_and_native(self):
        """Four micro-batches a step, so that each of four ranks has one leaf: that one travels as bf16."""
        def run(name, ranks, micro_batches, *keys):
            words = [word for key in (f"train.micro_batches_per_step={micro_batches}", *keys) for word in ("--set", key)]
            return self.train(name, ranks, *words, steps=3)

        found = {ranks: run(f"bf16-{ranks}", ranks, 4, 'train.leaf_dtype="bf16"')["state_digest"]
                 for ranks in ((1, 4) if self.emulation else (1, 2, 4))}
        check(len(set(found.values())) == 1, f"bf16: digests differ: {found}")
        check(run("f32-1", 1, 4)["state_digest"] != found[1], "bf16: the digest is that of f32, so nothing was rounded")
        # A sum of two has no order: one micro-batch on each of two ranks gives the tree's bits.
        native = run("native-2", 2, 2, 'train.reduction="native"')
        check(native["reduction"] == "native", f"native: the report says {native['reduction']}")
        tree = run("tree-1", 1, 2)["state_digest"]
        check(native["state_digest"] == tree, f"native: digest {native['state_digest']}, the tree's is {tree}")

    def checkpoints(self):
        # The whole run on the GPU, and the same with a stop in the middle and another number of ranks after it.
        half = 2 if self.emulation else 4
        shape = {"steps": 2 * half, "every": half}
        to_half = ("--stop-after", str(half))
        whole = self.train("whole", 1, **shape)
        for mode in ("sync", "async"):
            run_dir = self.out / f"run-{mode}"
            self.train(f"first-{mode}", 2, "--run-dir", run_dir, *to_half, mode=mode, **shape)
            resumed = self.train(f"second-{mode}", 3, "--run-dir", run_dir, mode=mode, **shape)
            check(resumed["first_step"] == half, f"{mode}: resumed at {resumed['first_step']}")
            check(resumed["state_digest"] == whole["state_digest"], f"{mode}: another digest after the resume")
        # Processor to GPU and back: what is restored is what was saved, before a step is done.
        for name, first, second in (("to-gpu", "cpu", "cuda"), ("to-cpu", "cuda", "cpu")):
            run_dir = self.out / f"run-{name}"
            saved = self.train(f"{name}-saved", 2, "--run-dir", run_dir, *to_half, device=first, **shape)
            kept = self.train(f"{name}-kept", 1, "--run-dir", run_dir, *to_half, device=second, **shape)
            check(kept["state_digest"] == saved["state_digest"], f"{name}: another digest after the restore")
            self.train(f"{name}-goes-on", 2, "--run-dir", run_dir, device=second, **shape)

    def memory(self, device="cuda"):
        """Bytes that the ledger predicts from the layout against what is in use on the GPU."""
        table = self.out / "table.csv"
        self.run("table", [self.bin / "lockstep", "data", "make-tabular", "--rows", "200", "--features", "10", "--seed", "1",
                           table])
        recipe = self.out / "large.toml"
        recipe.write_text(LARGE.format(data=table, device=device))
        for ranks in (1, 2):
            report = self.train(f"memory-{ranks}", ranks, recipe=recipe)
            check(len(report["memory_bytes"]) == ranks, f"{ranks} ranks: the report has memory of {len(report['memory_bytes'])}")
            ratios = [each["measured"] / each["predicted"] for each in report["memory_bytes"]]
            self.figures[f"memory_measured_over_predicted_{ranks}"] = [round(ratio, 4) for ratio in ratios]
            check(all(abs(ratio - 1) <= 0.05 for ratio in ratios), f"{ranks} ranks: measured / predicted is {ratios}")

    def failures(self):
        text = self.run("ranks-failing", self.ranks(2, [self.tests / "gpu_test", "--gtest_filter=Failing/NcclConformance*:GpuWatchdog*"]))
        check("Failing/NcclConformance.Holds/" in text, "NCCL's failing cases were not run")
        # Two ranks on one GPU, unless they may; no GPU visible; and a rank that dies or freezes in the middle.
        recipe = self.recipe("refused")
        text = self.run("two-on-one", self.ranks(2, [self.bin / "lockstep", "train", recipe]), want=64,
                        CUDA_VISIBLE_DEVICES="0")
        check("two ranks would work on one GPU" in text, "no table of who shares a GPU")
        text = self.run("none-visible", [self.bin / "lockstep", "train", recipe], want=64, CUDA_VISIBLE_DEVICES="")
        check("GPU" in text, "a GPU that is not there is not named")
        for name, sign in (("killed", signal.SIGKILL), ("frozen", signal.SIGSTOP)):
            self.hurt_a_rank(name, sign)

    def hurt_a_rank(self, name, sign):
        recipe = self.recipe(name, steps=100000)
        log = self.out / f"{name}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                list(map(str, self.ranks(2, [self.bin / "lockstep", "train", recipe, "--share-gpu", "--set",
                                             f"train.timeout_s={5 if self.emulation else 8}"]))),
                stdout=file, stderr=subprocess.STDOUT, env=self.environment(), start_new_session=True)
        try:
            victim = self.rank_process(process, log)
            os.kill(victim, sign)
            begin = time.monotonic()
            process.wait(timeout=60)
            took_s = time.monotonic() - begin
        except subprocess.TimeoutExpired:
            raise Failed(f"{name}: the others had not ended after 60 s") from None
        finally:
            end_session(process.pid)
            process.wait()
        text = log.read_text(errors="replace")
        # mpirun tells of the rank that was killed first, by its signal.
        wanted = (75, 128 + sign) if sign == signal.SIGKILL else (75,)
        check(process.returncode in wanted, f"{name}: exit code {process.returncode}, expected one of {wanted}; {log.name}")
        # In a line of ours: mpirun has words of its own for a rank that is gone.
        check(re.search(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ r0 .*rank 1\b", text, re.M),
              f"{name}: rank 0 does not name rank 1; {log.name}")
        self.figures[f"{name}_seconds_to_end"] = round(took_s, 1)

    def rank_process(self, job, log):
        """The process of rank 1, once a step is done: its exchanges have connected the GPUs."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if re.search(r"^step \d", log.read_text(errors="replace"), re.M):
                for entry in processes_of(job.pid):
                    try:
                        variables = (entry / "environ").read_bytes().split(b"\0")
                        name = (entry / "comm").read_text().strip()
                    except OSError:
                        continue
                    if name == "lockstep" and b"OMPI_COMM_WORLD_RANK=1" in variables:
                        return int(entry.name)
            time.sleep(0.2)
        raise Failed("rank 1 did not come to train")

    def sanitizer(self):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not pathlib.Path(tool).exists():
            return "not run: no compute-sanitizer on this machine"
        for check_name in ("memcheck", "initcheck", "synccheck"):
            self.run(f"sanitizer-{check_name}", [tool, "--tool", check_name, "--error-exitcode", "99", self.tests / "gpu_test",
                                                 "--gtest_filter=GpuKernels*:GpuBf16*:GpuHashes*"], timeout_s=150)
        return None

    def bench(self):
        """Every benchmark is run, whatever came of those before it."""
        if self.emulation:
            return "not run: figures of an emulated GPU mean nothing"
        missed, failed = [], []
        for each in benches.BENCHES:
            try:
                for is_met, what in each(self):
                    if not is_met:
                        missed.append(what)
            except OutOfTime as late:
                raise OutOfTime("\n".join([str(late), *failed, *missed])) from None
            except (Failed, OSError, ValueError, KeyError) as error:
                failed.append(f"{each.__name__}: {error}")
        if failed:
            raise Failed("\n".join(failed + missed))
        if missed:
            raise NotMet("\n".join(missed))
        return None


PARTS = {"kernels": Suite.kernels, "ranks": Suite.ranks_part, "invariance": Suite.invariance,
         "checkpoints": Suite.checkpoints, "memory": Suite.memory, "failures": Suite.failures, "bench": Suite.bench, "sanitizer": Suite.sanitizer}


def gpu_names():
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True)
        return done.stdout.strip().splitlines() if done.returncode == 0 else []
    except OSError:
        return []


def write_report(suite, results):
    gpus = ["an emulated GPU: no figure counts"] if suite.emulation else gpu_names()
    report = {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "gpus": gpus,
              "host": platform.platform(), "parts": results, "figures": suite.figures}
    (suite.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"# GPU suite, {report['utc']}", "", *[f"- {name}" for name in report["gpus"]], "",
             "| part | result | seconds |", "|---|---|---|"]
    lines += [f"| {r['part']} | {r['result']} | {r['seconds']} |" for r in results]
    lines += ["", *[f"## {r['part']}\n```\n{r['why']}\n```\n" for r in results if r["why"]],
              "## Figures", "```", json.dumps(suite.figures, indent=1), "```", ""]
    (suite.out / "report.md").write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--tests", required=True)
    parser.add_argument("--default-out", required=True)
    parser.add_argument("--out", help="a folder for logs and the report; what is in it goes")
    parser.add_argument("--emulated", metavar="FOLDER", help="no GPU, but what stands for one (build/release/tests/emulated_gpu)")
    parser.add_argument("parts", nargs="*", metavar="PART", help="of: " + ", ".join(PARTS))
    chosen = parser.parse_args()
    for part in chosen.parts:
        if part not in PARTS:
            parser.error(f"no part '{part}'; there are {', '.join(PARTS)}")
    if not chosen.emulated and not gpu_names():
        print("no GPU here (nvidia-smi): nothing was run", file=sys.stderr)
        return 64
    suite = Suite(chosen)
    results = []
    for part in chosen.parts or PARTS:
        begin = time.monotonic()
        why = ""
        try:
            why = PARTS[part](suite) or ""
            result = "not run" if why else "passed"
        except NotMet as missed:
            why, result = str(missed), "not met"
        except OutOfTime as late:
            why, result = str(late), "out of time"
        except Failed as failed:
            why, result = str(failed), "FAILED"
        except (OSError, ValueError, KeyError) as error:
            why, result = f"{type(error).__name__}: {error}", "FAILED"
        results.append({"part": part, "result": result, "seconds": round(time.monotonic() - begin, 1), "why": why})
        print(f"{part}: {result} ({results[-1]['seconds']} s) {why[:300]}", flush=True)
        write_report(suite, results)
    print(f"report: {suite.out / 'report.md'}")
    return 1 if any(r["result"] in ("FAILED", "out of time") for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
