"""The promise on the real program: the same state digest on every number of ranks, also over a stop and a kill."""
# Covers: training_engine.cc, report.cc
import os
import unittest

import runs


class Invariance(runs.Case):
    def test_mlp_on_1_to_8_ranks(self):
        recipe = self.recipe(runs.MLP)
        expected = self.train(0, recipe)
        for ranks in range(1, 9):
            report = self.train(ranks, recipe)
            self.assertEqual(report["world_size"], ranks)
            self.assertEqual(report["state_digest"], expected["state_digest"], f"{ranks} ranks")
            self.assertEqual(report["params_digest"], expected["params_digest"], f"{ranks} ranks")
            self.assertEqual(report["final_train_loss"], expected["final_train_loss"], f"{ranks} ranks")
            self.assertEqual(report["eval"], expected["eval"], f"{ranks} ranks")

    def test_convnet_with_batch_norm_on_1_to_8_ranks(self):
        recipe = self.recipe(runs.CONVNET)
        expected = self.train(1, recipe)
        for ranks in range(2, 9):
            self.assertEqual(self.train(ranks, recipe)["state_digest"], expected["state_digest"], f"{ranks} ranks")

    def test_what_is_not_in_the_recipe_changes_nothing(self):
        recipe = self.recipe(runs.MLP)
        expected = self.train(2, recipe)
        run = ("--run-dir", self.path("run"))
        behind = ("--set", "checkpoint.mode=async", "--set", "checkpoint.when_busy=skip", *run)
        for change, *more in (("train.bucket_mib=0.01",), ("train.bucket_mib=100",),
                              ("checkpoint.every_steps=1", *behind)):
            report = self.train(2, recipe, "--set", change, *more)
            self.assertEqual(report["state_digest"], expected["state_digest"], change)
            self.assertEqual(report["recipe_hash"], expected["recipe_hash"], change)

    def test_what_is_in_the_recipe_changes_the_digest(self):
        recipe = self.recipe(runs.MLP)
        digests = {self.train(2, recipe)["state_digest"]}
        changes = ["train.seed=4", "train.leaf_micro_batches=2", "train.reduction=native", "clip.max_norm=0.4",
                   "data.split_seed=2", "train.micro_batches_per_step=11", "train.leaf_dtype=bf16"]
        for change in changes:
            digests.add(self.train(2, recipe, "--set", change)["state_digest"])
        self.assertEqual(len(digests), len(changes) + 1)

    def test_leaves_rounded_to_bf16(self):
        recipe = self.recipe(runs.MLP)
        rounded = ("--set", "train.leaf_dtype=bf16", "--set", "train.micro_batches_per_step=4")
        expected = self.train(1, recipe, *rounded)["state_digest"]
        for ranks in (2, 3, 4):
            self.assertEqual(self.train(ranks, recipe, *rounded)["state_digest"], expected, f"{ranks} ranks")

    def test_resume_on_another_number_of_ranks(self):
        recipe = self.recipe(runs.MLP)
        expected = self.train(1, recipe)["state_digest"]
        for first, second in ((1, 2), (2, 3), (3, 2), (4, 1), (4, 8), (8, 6)):
            run = self.path(f"run-{first}-{second}")
            stopped = self.train(first, recipe, "--run-dir", run, "--stop-after", "5")
            self.assertEqual((stopped["status"], stopped["steps"]), ("stopped_by_limit", 5))
            resumed = self.train(second, recipe, "--run-dir", run)
            self.assertEqual((resumed["first_step"], resumed["steps"], resumed["attempt"]), (5, 8, 2))
            self.assertEqual(resumed["state_digest"], expected, f"{first} then {second} ranks")

    def test_convnet_resumes_on_another_number_of_ranks(self):
        # BatchNorm's statistics, momentum, channels-last weights and leaves of two come back too.
        recipe = self.recipe(runs.CONVNET)
        leaves = ("--set", "train.leaf_micro_batches=2")
        expected = self.train(1, recipe, *leaves)["state_digest"]
        for first, second in ((3, 2), (1, 4)):
            run = self.path(f"run-{first}-{second}")
            self.train(first, recipe, *leaves, "--run-dir", run, "--stop-after", "2")
            resumed = self.train(second, recipe, *leaves, "--run-dir", run)
            self.assertEqual(resumed["first_step"], 2)
            self.assertEqual(resumed["state_digest"], expected, f"{first} then {second} ranks")

    def test_sigkill_and_resume(self):
        self.killed_and_resumed("sync")

    def test_sigkill_and_resume_with_saves_behind_training(self):
        self.killed_and_resumed("async")

    def killed_and_resumed(self, mode):
        recipe = self.recipe(runs.MLP)
        more = ("--set", "train.steps=4000", "--set", "schedule.total_steps=8")
        run = self.path("run")
        process = self.start(2, "train", recipe, "--run-dir", run, "--set", "checkpoint.every_steps=5",
                             "--set", f"checkpoint.mode={mode}", *more)
        self.wait_for(lambda: self.num_checkpoints(run) >= 2, "two checkpoints")
        pids = runs.ranks_of(process.pid)
        runs.kill(pids[1])
        process.wait(timeout=runs.TIMEOUT_S)
        killed_at = max(int(name[-10:]) for name in os.listdir(os.path.join(run, "checkpoints"))
                        if name.startswith("gen-"))
        end = ("--set", f"train.steps={killed_at + 7}", "--set", "schedule.total_steps=8")
        resumed = self.train(3, recipe, "--run-dir", run, *end)
        self.assertEqual(resumed["first_step"], killed_at)
        self.assertEqual(resumed["state_digest"], self.train(1, recipe, *end)["state_digest"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
