"""Where a start goes on from: a path, another run, the beginning; and taking a run over. No step of metrics is lost."""
# Covers: run_files.cc
import json
import os
import pathlib
import re
import shutil
import signal
import unittest

import runs

LONG = ("--set", "train.steps=100000", "--set", "schedule.total_steps=8")


class Resume(runs.Case):
    def setUp(self):
        super().setUp()
        self.mlp = self.recipe(runs.MLP)
        self.run_dir = self.path("run")

    def checkpoint(self, step):
        """The newest generation of a step."""
        return str(sorted(pathlib.Path(self.run_dir, "checkpoints").glob(f"gen-*-step-{step:010d}"))[-1])

    def metrics(self, name="metrics.jsonl", run=None):
        text = pathlib.Path(run or self.run_dir, name).read_text(encoding="utf-8")
        return [(line["event"], line["num_steps"]) for line in map(json.loads, text.splitlines())]

    def steps(self, **where):
        return [number for event, number in self.metrics(**where) if event == "step"]

    def refused(self, *arguments, words, code=64):
        done = self.run_program(0, "train", self.mlp, *arguments)
        self.assertEqual(done.returncode, code, done.stderr[-3000:])
        for word in words:
            self.assertIn(word, done.stderr)

    def train_to_the_end(self):
        return self.train(2, self.mlp, "--run-dir", self.run_dir, "--set", "checkpoint.every_steps=2", "--set",
                          "checkpoint.keep_latest=9")

    def test_an_older_checkpoint_by_its_path_is_where_the_run_goes_on(self):
        whole = self.train_to_the_end()
        process = self.start(0, "train", self.mlp, "--run-dir", self.run_dir, "--resume", self.checkpoint(4), *LONG)
        newest = os.path.join(self.run_dir, "checkpoints", "gen-000005-step-0000000004")
        self.wait_for(lambda: os.path.exists(newest), "the restored state as the newest generation")
        runs.kill(process.pid)
        process.wait(timeout=runs.TIMEOUT_S)
        resumed = self.train(3, self.mlp, "--run-dir", self.run_dir)
        self.assertEqual((resumed["first_step"], resumed["steps"]), (4, 8))
        self.assertEqual(resumed["state_digest"], whole["state_digest"])
        self.assertEqual(self.steps(), list(range(1, 9)))

    def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(self):
        whole = self.train_to_the_end()
        before = self.metrics()
        there, away = self.path("run/checkpoints"), self.path("another-disk")
        os.rename(there, away)
        for resume in ("auto", "never"):
            self.refused("--run-dir", self.run_dir, "--resume", resume, code=65,
                         words=("run/metrics.jsonl", "a durable checkpoint of step 8", "--resume never --overwrite"))
        self.assertEqual(self.metrics(), before)
        os.rmdir(there)
        os.rename(away, there)
        for name in os.listdir(there):
            os.rename(os.path.join(there, name), os.path.join(there, "old-" + name))
        self.refused("--run-dir", self.run_dir, code=65, words=("a durable checkpoint of step 8",))
        for name in os.listdir(there):
            os.rename(os.path.join(there, name), os.path.join(there, name.removeprefix("old-")))
        resumed = self.train(3, self.mlp, "--run-dir", self.run_dir)
        self.assertEqual((resumed["first_step"], resumed["state_digest"]), (8, whole["state_digest"]))
        shutil.rmtree(there)
        again = self.train(1, self.mlp, "--run-dir", self.run_dir, "--resume", "never", "--overwrite")
        self.assertEqual((again["first_step"], again["state_digest"]), (0, whole["state_digest"]))

    def test_files_beside_the_shards_are_told_of(self):
        whole = self.train_to_the_end()
        pathlib.Path(self.checkpoint(8), "notes.txt").write_text("mine", encoding="utf-8")
        done = self.run_program(2, "train", self.mlp, "--run-dir", self.run_dir, "--report", self.path("report.json"))
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertEqual(done.stderr.count("files that its manifest does not name: notes.txt"), 1, done.stderr)
        report = json.loads(pathlib.Path(self.path("report.json")).read_text(encoding="utf-8"))
        self.assertEqual(report["state_digest"], whole["state_digest"])

    def test_a_checkpoint_of_another_run_starts_a_new_one(self):
        whole = self.train_to_the_end()
        branch = self.path("branch")
        report = self.train(2, self.mlp, "--run-dir", branch, "--resume", self.checkpoint(4))
        self.assertEqual((report["first_step"], report["state_digest"]), (4, whole["state_digest"]))
        self.assertEqual(self.metrics(run=branch)[0], ("begin", 4))
        self.assertEqual(self.steps(run=branch), [5, 6, 7, 8])
        self.refused("--run-dir", branch, "--resume", self.checkpoint(4), words=["of its own", "--resume auto"])
        self.assertEqual(self.steps(run=branch), [5, 6, 7, 8])

    def test_overwrite_keeps_what_was_there_under_other_names(self):
        self.train_to_the_end()
        fresh = self.train(1, self.mlp, "--run-dir", self.run_dir, "--resume", "never", "--overwrite", "--stop-after", "3")
        self.assertEqual((fresh["first_step"], fresh["attempt"]), (0, 2))
        self.assertEqual(self.steps(), [1, 2, 3])
        self.assertEqual(self.steps(name="metrics-aside-a0002.jsonl"), list(range(1, 9)))
        self.assertTrue(os.path.exists(os.path.join(self.run_dir, "recipe-aside-a0002.toml")))
        self.assertEqual(len(os.listdir(os.path.join(self.run_dir, "checkpoints-aside-a0002"))), 4)

    def test_metrics_that_lack_steps_are_not_gone_on_with(self):
        self.train(1, self.mlp, "--run-dir", self.run_dir, "--stop-after", "4")
        path = pathlib.Path(self.run_dir, "metrics.jsonl")
        text = "".join(line for line in path.read_text().splitlines(True) if '"num_steps":3,' not in line)
        path.write_text(text)
        done = self.run_program(0, "train", self.mlp, "--run-dir", self.run_dir)
        self.assertEqual(done.returncode, 65, done.stderr[-3000:])
        self.assertIn("metrics.jsonl:3", done.stderr)
        self.assertEqual(path.read_text(), text)

    def test_options_that_would_do_nothing_or_something_else_are_refused(self):
        run = ("--run-dir", self.run_dir)
        self.refused("--resume", "some/path", words=["--resume PATH", "--run-dir"])
        self.refused("--take-over", words=["--take-over", "--run-dir"])
        self.refused("--resume", "never", "--overwrite", words=["--overwrite", "--run-dir"])
        self.refused("--allow-recipe-change", "train.seed", words=["--allow-recipe-change", "--run-dir"])
        self.refused(*run, "--overwrite", words=["--resume never"])
        self.refused(*run, "--resume", "atuo", words=["auto, never or the folder of a checkpoint", "'atuo'"])
        self.assertFalse(os.path.exists(self.run_dir))

    def test_a_load_of_parameters_alone_starts_anew_with_them(self):
        whole = self.train_to_the_end()
        tuned = self.path("tuned run")
        load = ("--resume", self.checkpoint(8), "--load", "params-only")
        # Another recipe, another number of ranks: only the tensors must be the same.
        other = ("--set", "optimizer.name=sgd", "--set", "train.seed=9", "--set", "train.micro_batches_per_step=6")
        stop = self.train(3, self.mlp, "--run-dir", tuned, *load, *other, "--set", "optimizer.learning_rate=0")
        self.assertEqual((stop["first_step"], stop["steps"]), (0, 8))
        self.assertEqual(stop["params_digest"], whole["params_digest"], "a learning rate of zero changes nothing")
        self.assertNotEqual(stop["state_digest"], whole["state_digest"])
        self.assertEqual(self.steps(run=tuned), list(range(1, 9)))
        # The state of its start is the run's first checkpoint, and the next start goes on from the newest.
        self.assertIn("gen-000001-step-0000000000", os.listdir(os.path.join(tuned, "checkpoints")))
        again = self.train(1, self.mlp, "--run-dir", tuned, *other, "--set", "optimizer.learning_rate=0")
        self.assertEqual((again["first_step"], again["params_digest"]), (8, whole["params_digest"]))

    def test_a_load_of_parameters_is_the_same_on_any_number_of_ranks(self):
        self.train_to_the_end()
        load = ("--resume", self.checkpoint(4), "--load", "params-only")
        digests = {self.train(ranks, self.mlp, "--run-dir", self.path(f"tuned{ranks}"), *load)["state_digest"]
                   for ranks in (1, 2, 3)}
        self.assertEqual(len(digests), 1)

    def test_a_new_head_is_allowed_by_name(self):
        self.train_to_the_end()
        load = ("--resume", self.checkpoint(8), "--load", "params-only", "--run-dir", self.path("tuned"))
        wider = ("--set", "model.hidden=[256, 128]")
        self.refused(*load, *wider, words=["differences", "shape: ", "[160, 256]",
                                           "--allow-missing", "--allow-unexpected"])
        self.refused(*load, *wider, "--allow-missing", "*", words=["shape: "])
        report = self.train(2, self.mlp, "--run-dir", self.path("tuned2"), "--resume", self.checkpoint(8), "--load",
                            "params-only", *wider, "--allow-missing", "*", "--allow-unexpected", "*")
        self.assertEqual((report["first_step"], report["steps"]), (0, 8))

    def test_loads_that_make_no_sense_are_refused(self):
        run = ("--run-dir", self.run_dir)
        self.refused(*run, "--load", "params-only", words=["--resume PATH"])
        self.refused(*run, "--load", "parms", words=["all or params-only", "'parms'"])
        self.refused(*run, "--allow-missing", "head.*", words=["--load params-only"])
        self.refused(*run, "--load", "params-only", "--resume", "x", "--allow-recipe-change", "train.seed",
                     words=["recipes are not compared"])
        self.assertFalse(os.path.exists(self.run_dir))

    def test_an_attempt_that_was_taken_over_ends_at_its_next_save(self):
        more = ("--run-dir", self.run_dir, "--set", "checkpoint.every_steps=200", *LONG)
        older = self.start(0, "train", self.mlp, *more)
        self.wait_for(lambda: self.num_checkpoints(self.run_dir) > 0, "a checkpoint")
        newer = self.start(0, "train", self.mlp, *more, "--take-over")
        _, errors = older.communicate(timeout=runs.TIMEOUT_S)
        self.assertEqual(older.returncode, 75, errors[-3000:])
        self.assertRegex(errors, r" error r0.*attempt 2\b.*")
        runs.kill(newer.pid, signal.SIGUSR1)
        _, errors = newer.communicate(timeout=runs.TIMEOUT_S)
        self.assertEqual(newer.returncode, 85, errors[-3000:])
        self.assertIsNotNone(re.search("attempt 2, resuming from", errors))


if __name__ == "__main__":
    unittest.main(verbosity=2)
