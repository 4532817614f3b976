"""The tabular recipe as a user runs it: five epochs, stopped after the third, resumed."""
# Covers: data_command.cc
import json
import os
import subprocess
import unittest

import runs

RECIPE = os.path.join(os.path.dirname(__file__), "..", "..", "launch", "recipes", "tabular.toml")
STEPS_PER_EPOCH = 50


class Tabular(runs.Case):
    def setUp(self):
        super().setUp()
        self.table = self.path("tabular.csv")
        subprocess.run([runs.LOCKSTEP, "data", "make-tabular", "--rows", "1000", "--features", "10", "--seed", "1",
                        self.table], check=True)

    def train_tabular(self, ranks, run, *arguments):
        report = self.train(ranks, RECIPE, "--run-dir", run, "--set", f"data.path={self.table}", *arguments)
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
            return report, [json.loads(line) for line in file]

    def test_learns_and_goes_on_after_a_stop_as_if_nothing_had_been(self):
        whole, expected = self.train_tabular(1, self.path("whole"))
        self.assertEqual((whole["steps"], whole["eval"]["num_samples"]), (5 * STEPS_PER_EPOCH, 200))
        run = self.path("stopped")
        stopped, _ = self.train_tabular(2, run, "--stop-after", str(3 * STEPS_PER_EPOCH))
        self.assertEqual((stopped["status"], stopped["steps"]), ("stopped_by_limit", 3 * STEPS_PER_EPOCH))
        resumed, found = self.train_tabular(3, run)
        self.assertEqual((resumed["first_step"], resumed["steps"]), (3 * STEPS_PER_EPOCH, 5 * STEPS_PER_EPOCH))

        def losses(lines, event):
            return [(line["num_steps"], line["loss"]) for line in lines if line["event"] == event]

        self.assertEqual([steps for steps, _ in losses(found, "step")], list(range(1, 5 * STEPS_PER_EPOCH + 1)))
        self.assertEqual(losses(found, "step"), losses(expected, "step"))
        self.assertEqual(losses(found, "evaluation"), losses(expected, "evaluation"))
        for key in ("state_digest", "params_digest", "eval", "final_train_loss", "recipe_hash"):
            self.assertEqual(resumed[key], whole[key], key)

        steps = [loss for _, loss in losses(found, "step")]
        epochs = [sum(steps[first:first + STEPS_PER_EPOCH]) / STEPS_PER_EPOCH
                  for first in range(0, len(steps), STEPS_PER_EPOCH)]
        tests = [loss for _, loss in losses(found, "evaluation")]
        for name, values in (("training loss", epochs), ("test loss", tests)):
            self.assertEqual(len(values), 5)
            self.assertEqual(values, sorted(values, reverse=True), f"{name} by epochs: {values}")
        self.assertGreaterEqual(resumed["eval"]["accuracy"], 0.86)


if __name__ == "__main__":
    unittest.main(verbosity=2)
