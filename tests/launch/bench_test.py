"""lockstep bench: on several ranks, into files, and the page that is drawn of them."""
# Covers: bench_command.cc, collectives_bench.cc, peer_command.cc
import json
import os
import pathlib
import sys
import unittest

import runs


class Bench(runs.Case):
    def test_collectives_and_steps_are_measured_and_drawn(self):
        folder = pathlib.Path(self.path("results"))
        folder.mkdir()
        for ranks in (3, 4):
            self.program(ranks, "bench", "collectives", "--sizes-kib", "64", "512", "--rounds", "3", "--repeats", "2",
                         "--variants", "--device", "cpu", "--out", folder / f"collectives-{ranks}.json")
        found = json.loads((folder / "collectives-3.json").read_text())
        self.assertEqual([size["size_kib"] for size in found["results"]], [64, 512])
        tree = found["results"][1]["sides"]["tree"]
        # Bandwidths follow from the time: 512 KiB in p50_ms, and 2 (3 - 1) / 3 of that on the bus.
        self.assertAlmostEqual(tree["alg_gb_per_s"], 512 * 1024 / tree["p50_ms"] * 1e-6, places=9)
        self.assertAlmostEqual(tree["bus_gb_per_s"] / tree["alg_gb_per_s"], 4 / 3, places=9)

        found = json.loads((folder / "collectives-4.json").read_text())
        self.assertEqual(found["ranks_per_host"], 4)
        self.assertEqual(list(found["results"][0]["sides"]), ["tree", "native", "halving", "bf16"])
        self.assertGreater(found["results"][0]["time_ratio_tree_to_halving"]["median"], 0)

        recipe = self.recipe(runs.MLP)
        peer = self.write("peer.py", "import os\nassert 'OMPI_COMM_WORLD_RANK' not in os.environ\n"
                          "assert len(os.sched_getaffinity(0)) == %d\nprint('warm')\nprint('{\"step_ms\": 7.5, \"samples_per_step\": 48}')\n"
                          % len(os.sched_getaffinity(0)))
        self.program(2, "bench", "step", recipe, "--steps", "4", "--rounds", "2", "--peer", f"other={sys.executable} {peer}",
                     "--out", folder / "step.json")
        step = json.loads((folder / "step.json").read_text())
        for side in ("tree", "native"):
            times = step["sides"][side]
            self.assertGreater(times["step_p50_ms"], 0)
            self.assertLessEqual(times["split_ms"]["update"], times["step_p95_ms"])
        self.assertEqual(step["sides"]["other"]["step_p50_ms"], 7.5)
        ratio, tree_ms = step["time_ratio_tree_to_other"], step["sides"]["tree"]["step_p50_ms"]
        self.assertLessEqual(ratio["min"] * 7.5, tree_ms * 1.000001)
        self.assertGreaterEqual(ratio["max"] * 7.5, tree_ms * 0.999999)

        page = pathlib.Path(self.lockstep("bench", "report", folder).stdout.strip())
        self.assertEqual(page, folder / "index.html")
        text = page.read_text()
        for name in ("collectives-3.json", "collectives-4.json", "step.json"):
            self.assertIn(name, text)
        self.assertEqual(text.count("<svg"), 5)
        self.assertNotIn("can't be shown", text)

    def test_what_makes_no_sense_is_refused(self):
        alone = self.program(1, "bench", "collectives", expect=64)
        self.assertIn("start it with mpirun -n N", alone.stderr)
        self.lockstep("bench", "report", self.path("nowhere"), expect=65)
        for peer, why in (("exit 3", "exit code 3"), ("echo '{\"ms\": 1}'", "step_ms"),
                          ("echo '{\"step_ms\": 1}'", "samples_per_step"),
                          ("echo '{\"step_ms\": 1, \"samples_per_step\": 49}'", "works 49 samples a step, and the recipe 48"), ("kill -9 $$", "signal 9")):
            done = self.program(2, "bench", "step", self.recipe(runs.MLP), "--steps", "2", "--rounds", "1", "--peer",
                                f"other={peer}", expect=64)
            self.assertIn(why, done.stderr)
        self.program(0, "bench", "step", self.recipe(runs.MLP), "--peer", "nothing", expect=64)
        empty = pathlib.Path(self.path("empty"))
        empty.mkdir()
        self.assertIn("has no .json file", self.lockstep("bench", "report", empty, expect=64).stderr)


if __name__ == "__main__":
    unittest.main()
