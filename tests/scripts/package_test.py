#!/usr/bin/env python3
"""The package (launch/package.sh) as another machine gets it: unpacked elsewhere, and run with nothing of the build around it."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["LOCKSTEP_BUILD"])
EMULATED_GPU = os.environ["LOCKSTEP_EMULATED_GPU"]
TIMEOUT_S = 400  # more than the runs of a part of the suite may take

RECIPE = """
[model]
name = "mlp"
hidden = [32]
[data]
name = "csv"
path = "{table}"
label = "label"
[train]
steps = 4
micro_batch_size = 4
micro_batches_per_step = 4
device = "cpu"
"""


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-package-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        packed = cls.folder / "packed.tar.gz"
        subprocess.run(["bash", ROOT / "launch/package.sh", packed, BUILD], check=True, timeout=TIMEOUT_S)
        (cls.folder / "elsewhere").mkdir()
        subprocess.run(["tar", "-C", cls.folder / "elsewhere", "-xf", packed], check=True, timeout=TIMEOUT_S)
        cls.package = cls.folder / "elsewhere/lockstep"

    def run_there(self, *words):
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LOCKSTEP_TORCH_DIR": os.environ["LOCKSTEP_TORCH_DIR"]}
        done = subprocess.run([self.package / "run", *map(str, words)], env=env, cwd=self.folder, capture_output=True, text=True,
                              timeout=TIMEOUT_S)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def test_nothing_comes_from_the_build_and_mpi_from_the_package(self):
        self.assertIn("train", self.run_there("lockstep", "--help"))
        found = self.run_there("ldd", self.package / "bin/lockstep", self.package / "lib/liblockstep_cuda.so")
        self.assertNotIn("not found", found)
        self.assertNotIn(f"{BUILD}/", found)
        self.assertIn(f"libmpi.so.40 => {self.package}/lib/libmpi.so.40", found)

    def test_two_ranks_train(self):
        table, recipe, report = (self.folder / name for name in ("table.csv", "recipe.toml", "report.json"))
        self.run_there("lockstep", "data", "make-tabular", "--rows", "200", "--features", "10", "--seed", "1", table)
        recipe.write_text(RECIPE.format(table=table))
        self.run_there("mpirun", "-n", "2", "--oversubscribe", "lockstep", "train", recipe, "--report", report)
        found = json.loads(report.read_text())
        self.assertEqual((found["status"], found["world_size"], found["steps"]), ("done", 2, 4))

    def test_the_gpu_suite_runs_and_has_its_peer(self):
        said = self.run_there("tests/gpu.sh", "--emulated", EMULATED_GPU, "ranks")
        self.assertIn("ranks: passed", said)
        self.assertTrue((self.package / "gpu-report/report.md").is_file())
        self.assertTrue((self.package / "benchmarks/peers/ddp.py").is_file())


if __name__ == "__main__":
    unittest.main()
