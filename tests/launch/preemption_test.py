"""SIGUSR1 at any moment of the real program: one verdict, 85, and a run that goes on to the same state."""
# Covers: lifecycle.cc, stop_signals.cc
import json
import os
import pathlib
import random
import signal
import time
import unittest

import runs

MPIRUN_SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "launch", "mpirun.sh")
LONG = ("--set", "train.steps=100000", "--set", "schedule.total_steps=8")


class Preemption(runs.Case):
    def setUp(self):
        super().setUp()
        self.mlp = self.recipe(runs.MLP)

    def steps_saved(self, run):
        try:
            names = os.listdir(os.path.join(run, "checkpoints"))
        except FileNotFoundError:
            return 0
        return max((int(name[-10:]) for name in names if name.startswith("gen-")), default=0)

    def goes_on(self, run):
        steps = self.steps_saved(run)
        end = ("--set", f"train.steps={steps + 2}", "--set", "schedule.total_steps=8")
        resumed = self.train(2, self.mlp, "--run-dir", run, *end)
        self.assertEqual(resumed["first_step"], steps)
        self.assertEqual(resumed["state_digest"], self.train(0, self.mlp, *end)["state_digest"])

    def stop_by_script(self, delay_s, run, *arguments):
        command = self.command(2, "train", self.mlp, "--run-dir", run, "--set", "checkpoint.every_steps=5", *arguments, *LONG)
        process = self.start_command(["bash", MPIRUN_SCRIPT, *command[1:]])
        time.sleep(delay_s)
        runs.kill(process.pid, signal.SIGUSR1)
        _, errors = process.communicate(timeout=runs.TIMEOUT_S)
        self.assertEqual(process.returncode, 85, f"after {delay_s} s: {errors[-2000:]}")
        self.assertRegex(errors, "nothing new to save|saved after step", f"after {delay_s} s")
        return errors

    def test_at_any_moment_of_the_start_and_of_training(self):
        # From before mpirun has its ranks, through loading and joining, to the middle of saves.
        random.seed(7)
        for round_number, delay_s in enumerate([0.1, 0.4, 0.8, 1.2, *(random.uniform(0.3, 4) for _ in range(4))]):
            mode = ("sync", "async")[round_number % 2]
            run = self.path(f"run-{round_number}")
            self.stop_by_script(delay_s, run, "--set", f"checkpoint.mode={mode}")
            if round_number % 3 == 2:
                self.goes_on(run)

    def test_told_to_one_rank_alone(self):
        for rank in (0, 1):
            run, report = self.path(f"run-{rank}"), self.path("report.json")
            process = self.start(2, "train", self.mlp, "--run-dir", run, "--report", report, "--set",
                                 "checkpoint.every_steps=5", *LONG)
            self.wait_for(lambda: self.num_checkpoints(run) > 0, "a checkpoint")
            runs.kill(runs.ranks_of(process.pid)[rank], signal.SIGUSR1)
            self.assertEqual(process.wait(timeout=runs.TIMEOUT_S), 85)
            with open(report, encoding="utf-8") as file:
                told = json.load(file)
            self.assertEqual((told["stop"], told["durable_steps"]), ("saved", told["steps"]))
            self.goes_on(run)

    def test_again_and_again_changes_nothing(self):
        run = self.path("run")
        process = self.start(0, "train", self.mlp, "--run-dir", run, "--set", "checkpoint.every_steps=5", *LONG)
        self.wait_for(lambda: self.num_checkpoints(run) > 0, "a checkpoint")
        while process.poll() is None:
            runs.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.002)
        self.assertEqual(process.returncode, 85)
        self.goes_on(run)

    def test_a_start_that_is_stopped_at_once_says_what_is_there(self):
        run = self.path("run")
        self.train(1, self.mlp, "--run-dir", run, "--stop-after", "3")
        process = self.start(0, "train", self.mlp, "--run-dir", run, *LONG)
        # From the moment on when the process handles it.
        self.wait_for(lambda: self.handles_usr1(process.pid), "the handler")
        runs.kill(process.pid, signal.SIGUSR1)
        _, errors = process.communicate(timeout=runs.TIMEOUT_S)
        self.assertEqual(process.returncode, 85, errors[-2000:])
        # A quick machine may have trained a step by then; that one is saved.
        if self.steps_saved(run) == 3:
            self.assertIn("nothing new to save; the newest checkpoint is of step 3", errors)
        self.goes_on(run)

    def handles_usr1(self, pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
        return caught >> (signal.SIGUSR1 - 1) & 1

    def test_too_short_a_grace_period_leaves_with_the_checkpoint_before(self):
        run, report = self.path("run"), self.path("report.json")
        process = self.start(2, "train", self.mlp, "--run-dir", run, "--report", report, "--set",
                             "checkpoint.every_steps=200", "--set", "checkpoint.grace_s=0.0001", *LONG)
        self.wait_for(lambda: self.num_checkpoints(run) > 0, "a checkpoint")
        runs.kill(process.pid, signal.SIGUSR1)
        _, errors = process.communicate(timeout=runs.TIMEOUT_S)
        self.assertEqual(process.returncode, 85, errors[-2000:])
        with open(report, encoding="utf-8") as file:
            told = json.load(file)
        self.assertEqual(told["durable_steps"], self.steps_saved(run))
        if told["steps"] % 200 != 0:
            self.assertEqual(told["stop"], "previous")
            self.assertIn("is too short for a save", errors)
        self.goes_on(run)


if __name__ == "__main__":
    unittest.main(verbosity=2)
