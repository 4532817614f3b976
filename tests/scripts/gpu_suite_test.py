#!/usr/bin/env python3
"""What the GPU suite says of figures, with stand-ins for the programs that it runs and for a GPU."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SUITE = pathlib.Path(__file__).resolve().parents[1] / "gpu/suite.py"

# Prints, and writes where it is told to, what FIGURES has for its name and its micro-batch or number of ranks.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
words = sys.argv[1:]
key = pathlib.Path(sys.argv[0]).name
if "--micro-batch" in words:
    key += words[words.index("--micro-batch") + 1]
if words[:1] == ["train"]:
    key += os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
with open(os.environ["WORDS"], "a") as file:
    print(key, *words, file=file)
text = json.dumps(json.loads(os.environ["FIGURES"]).get(key, {{}}))
for option in ("--out", "--report"):
    if option in words:
        pathlib.Path(words[words.index(option) + 1]).write_text(text)
print(text)
sys.exit(int(os.environ.get("EXIT_" + key, "0")))
"""


def figures(engine=1.0, add=0.95, staging=0.95):
    sizes = [{"mib": 16, "over_copy": {"add": {"median": 0.95}}}, {"mib": 256, "over_copy": {"add": {"median": add}}}]
    return {"step_bench64": {"ratio_median": 1.0}, "step_bench512": {"ratio_median": engine},
            "gpu_bench": {"kernels": sizes, "staging": {"rate_over_pinned_copy": {"median": staging}}}, "lockstep": {"sides": "all"}}


class Suite(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-gpu-suite-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        for name in ("lockstep", "step_bench", "gpu_bench", "nvidia-smi"):
            self.write(name, STAND_IN if name != "nvidia-smi" else "#!/bin/sh\necho a GPU\n")

    def write(self, name, text):
        (self.dir / name).write_text(text)
        (self.dir / name).chmod(0o755)

    def part(self, name, given, *words, code=0, **more):
        env = dict(os.environ, PATH=f"{self.dir}:{os.environ['PATH']}", FIGURES=json.dumps(given), WORDS=str(self.dir / "words"),
                   LOCKSTEP_DEPS_DIR=str(self.dir), CUDA_VISIBLE_DEVICES="", PYTHONDONTWRITEBYTECODE="1", **more)
        done = subprocess.run([sys.executable, SUITE, "--bin", self.dir, "--tests", self.dir, "--default-out", self.dir / "out", *words,
                               name], env=env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        report = json.loads((self.dir / "out/report.json").read_text())
        return report["parts"][0], report["figures"]

    def test_figures_that_reach_their_bars_pass(self):
        part, found = self.part("bench", figures())
        self.assertEqual((part["result"], part["why"]), ("passed", ""))
        self.assertEqual(found["step_of_512"], {"ratio_median": 1.0})
        self.assertEqual(found["step_of_2_ranks"], {"sides": "all"})

    def test_ddp_is_a_peer_where_there_is_a_python_for_it(self):
        _, found = self.part("bench", figures())
        self.assertIn("not run", found["ddp"])
        (self.dir / "venv/bin").mkdir(parents=True)
        self.write("venv/bin/python", "#!/bin/sh\n")
        (self.dir / "words").unlink()
        _, found = self.part("bench", figures())
        self.assertNotIn("ddp", found)
        words = (self.dir / "words").read_text()
        for ranks in (1, 2):
            self.assertRegex(words, rf"train.micro_batches_per_step={ranks} .* --peer ddp=\S+/venv/bin/python \S+/benchmarks/peers/ddp.py "
                                    rf"--ranks {ranks} --micro-batch 256 --device cuda ")
        self.assertIn("bench collectives --variants", words)

    def test_a_figure_that_misses_its_bar_is_told_with_all_the_others(self):
        part, found = self.part("bench", figures(engine=1.02, add=0.89, staging=0.89))
        self.assertEqual(part["result"], "not met")
        self.assertEqual(part["why"].splitlines(), [
            "a step of 512 images takes 1.020 of a plain loop's time, at most 1.01",
            "tree additions of 256 MiB reach 0.890 of a copy's bandwidth, at least 0.9",
            "staging reaches 0.890 of a pinned copy's rate, at least 0.9"])
        self.assertEqual(found["step_of_2_ranks"], {"sides": "all"})

    def test_a_benchmark_that_breaks_fails_the_part_and_not_the_others(self):
        part, found = self.part("bench", figures(), code=1, EXIT_gpu_bench="3")
        self.assertEqual(part["result"], "FAILED")
        self.assertIn("bench_gpu: bench-gpu: exit code 3", part["why"])
        self.assertIn("step_of_2_ranks", found)

    def test_an_emulated_gpu_has_no_figures(self):
        part, _ = self.part("bench", {}, "--emulated", self.dir)
        self.assertEqual(part["result"], "not run")
        self.assertIn("figures of an emulated GPU mean nothing", part["why"])

    def test_each_rank_must_tell_its_memory(self):
        def memory(*ratios):
            return {"memory_bytes": [{"measured": ratio, "predicted": 1} for ratio in ratios]}

        part, _ = self.part("memory", {"lockstep1": memory(1.01), "lockstep2": memory(1.01, 0.99)})
        self.assertEqual(part["result"], "passed", part["why"])
        for second in (memory(), memory(1.01), memory(1.01, 1.06)):
            part, _ = self.part("memory", {"lockstep1": memory(1.01), "lockstep2": second}, code=1)
            self.assertEqual(part["result"], "FAILED")


if __name__ == "__main__":
    unittest.main()
