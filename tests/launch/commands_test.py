"""The commands that need no MPI, on checkpoints of real runs: what they print, and their exit status."""
# Covers: ckpt_command.cc, prune_command.cc, tool.cc, version.cc, progress.cc
import json
import os
import pathlib
import subprocess
import unittest

import runs


class Commands(runs.Case):
    def test_checkpoints_are_listed_looked_at_compared_and_exported(self):
        recipe = self.recipe(runs.MLP)
        one, two, later = self.path("one"), self.path("two"), self.path("later")
        report = self.train(1, recipe, "--run-dir", one, "--stop-after", "2")
        self.train(2, recipe, "--run-dir", two, "--stop-after", "2")
        self.train(1, recipe, "--run-dir", later, "--stop-after", "3")
        a, b, c = map(self.checkpoint, (one, two, later))

        listed = json.loads(self.lockstep("ckpt", "ls", one, "--json").stdout)
        self.assertIn(a.name, json.dumps(listed))
        self.assertIn(a.name, self.lockstep("ckpt", "ls", one).stdout)

        looked_at = json.loads(self.lockstep("ckpt", "inspect", b, "--json").stdout)
        self.assertEqual(looked_at["state_digest"], report["state_digest"])
        self.assertIn(report["state_digest"], self.lockstep("ckpt", "inspect", b).stdout)

        self.lockstep("ckpt", "verify", a)
        self.lockstep("ckpt", "diff", a, b)
        different = self.lockstep("ckpt", "diff", a, c, expect=1)
        self.assertIn("1.weight: ", different.stdout)

        picture = self.lockstep("ckpt", "inspect", b).stdout
        self.assertRegex(picture, r"(?m)^  0\.weight \[256, 10\] .*  [#+.1-9]{2}$")
        self.assertIn("blocks ", self.lockstep("ckpt", "inspect", b, "--all").stdout)
        (weight,) = [t for t in looked_at["owners"]["tensors"] if t["name"] == "1.weight"]
        self.assertEqual(sum(size for _, size in weight["shards"]), 3 * 4 * 160 * 256)

        for ranks in (1, 5):
            cut = self.path(f"cut for {ranks}, \u00fc")
            told = json.loads(self.lockstep("ckpt", "reshard", b, cut, "--world-size", ranks, "--json").stdout)
            self.assertEqual(told["state_digest"], report["state_digest"])
            self.assertEqual(len(list(pathlib.Path(cut).glob("shard-*"))), ranks)
            self.lockstep("ckpt", "verify", cut)
            self.lockstep("ckpt", "diff", a, cut)
            self.lockstep("ckpt", "reshard", b, cut, "--world-size", ranks, expect=64)
        self.lockstep("ckpt", "reshard", b, "/proc/cut", "--world-size", 2, expect=74)
        for world_size in ("0", "-1", "many", "1000000"):
            self.lockstep("ckpt", "reshard", b, self.path("c"), "--world-size", world_size, expect=64)
        resumed = self.train(2, recipe, "--run-dir", self.path("resumed"), "--resume", cut)
        self.assertEqual((resumed["first_step"], resumed["steps"]), (2, 8))

        out = self.path("weights.safetensors")
        self.lockstep("ckpt", "export", a, out)
        nowhere = self.path("nowhere", "weights.safetensors")
        self.assertIn("make the folder first", self.lockstep("ckpt", "export", a, nowhere, expect=74).stderr)
        header_bytes = int.from_bytes(pathlib.Path(out).read_bytes()[:8], "little")
        header = json.loads(pathlib.Path(out).read_bytes()[8:8 + header_bytes])
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        self.assertIn([256, 10], shapes)
        self.assertIn([160, 256], shapes)

        shard = sorted(a.glob("*.safetensors"))[0]
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
        bad = self.lockstep("ckpt", "verify", a, expect=65)
        self.assertIn(shard.name, bad.stdout + bad.stderr)

    def test_prune_deletes_what_no_rule_wants(self):
        run = self.path("a run, \u00fcber alles")
        self.train(1, self.recipe(runs.MLP), "--run-dir", run, "--set", "checkpoint.every_steps=1", "--set",
                   "checkpoint.keep_latest=100")
        steps = lambda: [c["step"] for c in json.loads(self.lockstep("ckpt", "ls", run, "--json").stdout)]
        self.assertEqual(steps(), list(range(1, 9)))

        def prune(*arguments, **expect):
            return self.lockstep("ckpt", "prune", run, "--keep-latest", 2, "--keep-every", 3, *arguments, **expect)

        told = json.loads(prune("--dry-run", "--json").stdout)
        self.assertEqual(steps(), list(range(1, 9)))
        self.assertEqual([c["step"] for c in told["checkpoints"] if c["is_deleted"]], [5, 4, 2, 1])
        self.assertIn("would delete 4 of 8 checkpoints", prune("--dry-run").stdout)
        size = lambda: sum(f.stat().st_size for f in pathlib.Path(run, "checkpoints").rglob("*") if f.is_file())
        before = size()
        self.assertIn("deleted 4 of 8 checkpoints", prune().stdout)
        self.assertEqual((steps(), before - size()), ([3, 6, 7, 8], told["freed_bytes"]))

        self.lockstep("ckpt", "prune", run, "--keep-for", "1h", "--keep-best", "max:accuracy")
        self.assertEqual(steps(), [3, 6, 7, 8])
        self.assertIn("what to keep", self.lockstep("ckpt", "prune", run, expect=64).stderr)
        for wrong in (["--keep-latest", "0"], ["--keep-for", "a week"], ["--keep-best", "accuracy"]):
            self.lockstep("ckpt", "prune", run, *wrong, expect=64)
        self.lockstep("ckpt", "prune", self.path("nowhere"), "--keep-latest", 1, expect=65)
        self.assertEqual(self.train(1, self.recipe(runs.MLP), "--run-dir", run)["first_step"], 8)

    def test_prune_is_refused_while_the_run_is_alive(self):
        run = self.path("run")
        process = self.start(0, "train", self.recipe(runs.MLP), "--run-dir", run, "--set", "train.steps=100000", "--set",
                             "checkpoint.every_steps=1", "--set", "checkpoint.keep_latest=100000")
        self.wait_for(lambda: self.num_checkpoints(run) > 3, "checkpoints")
        refused = self.lockstep("ckpt", "prune", run, "--keep-latest", 1, expect=64)
        self.assertIn(f"process {process.pid} on ", refused.stderr)
        self.assertIn("--while-running", refused.stderr)
        before = json.loads(self.lockstep("ckpt", "prune", run, "--keep-latest", 1, "--while-running", "--json").stdout)
        self.assertGreater(before["num_deleted"], 1)
        self.assertFalse(os.path.exists(before["checkpoints"][-1]["path"]))
        self.assertIsNone(process.poll())
        num = self.num_checkpoints(run)
        self.wait_for(lambda: self.num_checkpoints(run) > num, "the run goes on saving")
        runs.kill(process.pid, runs.signal.SIGUSR1)
        self.assertEqual(process.wait(timeout=runs.TIMEOUT_S), 85)

    def test_what_is_not_there_is_named(self):
        for command in ("ls", "inspect", "verify"):
            self.assertIn("nowhere", self.lockstep("ckpt", command, self.path("nowhere"), expect=65).stderr)
        out = self.path("nowhere", "table.csv")
        self.assertIn(out, self.lockstep("data", "make-tabular", out, expect=74).stderr)

    def test_a_table_that_could_not_be_read_back_is_not_made(self):
        out = self.path("table.csv")
        done = self.lockstep("data", "make-tabular", "--rows", 100000000, "--features", 100000, out, expect=64)
        self.assertIn("fewer rows", done.stderr)
        self.assertFalse(os.path.exists(out))

    def test_a_mistake_on_the_command_line_is_told_once(self):
        for variable in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"):
            for rank in ("0", "1"):
                done = self.run_program(0, "train", env=dict(runs.environment(), **{variable: rank}))
                self.assertEqual((done.returncode, "recipe" in done.stderr), (64, rank == "0"), done.stderr)

    def test_version_says_what_numbers_depend_on(self):
        text = self.lockstep("version").stdout
        for what in ("lockstep ", "build ", "LibTorch ", "instruction set "):
            self.assertIn(what, text)

    def test_report_has_the_first_step_and_the_memory_of_each_rank(self):
        report = self.train(2, self.recipe(runs.MLP), "--set", "model.hidden=[2000,2000]", "--set", "train.steps=2",
                            "--run-dir", self.path("run"))
        self.assertTrue(0.1 < report["seconds_to_first_step"] < 60, report["seconds_to_first_step"])
        self.assertEqual(len(report["memory_bytes"]), 2)
        for each in report["memory_bytes"]:
            # 5 % on a model ten times as large: benchmarks/memory_ledger.py.
            self.assertAlmostEqual(each["measured"] / each["predicted"], 1, delta=0.2, msg=each)

    def test_progress_without_a_terminal_is_plain_lines(self):
        done = self.run_program(1, "train", self.recipe(runs.MLP), "--run-dir", self.path("run"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("step 8/8", done.stderr)
        self.assertRegex(done.stderr, r"step 1/8  epoch 1  loss \d")
        self.assertNotIn("\r", done.stderr)
        self.assertNotIn("\033", done.stderr)

    def test_progress_on_a_terminal_is_one_line_that_changes(self):
        master, terminal = os.openpty()
        process = subprocess.Popen(self.command(0, "train", self.recipe(runs.MLP), "--set", "train.steps=400"),
                                   env=runs.environment(), stdout=subprocess.DEVNULL, stderr=terminal)
        os.close(terminal)
        text = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # how Linux tells that the other side has gone
                break
            if not piece:
                break
            text += piece
        os.close(master)
        self.assertEqual(process.wait(timeout=runs.TIMEOUT_S), 0, text[-2000:])
        lines = text.decode().replace("\r\n", "\n").split("\n")
        (changing,) = [line for line in lines if "\r" in line]
        self.assertRegex(changing.split("\r")[1], r"step \d+/400  epoch .* loss .* left ")
        self.assertIn("step 400/400", changing.split("\r")[-1])
        self.assertTrue(any(line.startswith("evaluation after step 400") for line in lines), lines[-5:])


if __name__ == "__main__":
    unittest.main(verbosity=2)
