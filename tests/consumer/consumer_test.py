#!/usr/bin/env python3
"""Runs the two programs of the consumer project: the same bits on 1, 2 and 3 ranks, and after a resume on others.

    consumer_test.py BUILD_FOLDER_OF_THE_CONSUMER
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROJECT = pathlib.Path(__file__).resolve().parent / "project"
BUILD = None


class Consumer(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def run_ranks(self, num_ranks, program, *arguments):
        command = ["mpirun", "-n", num_ranks, "--oversubscribe", "--mca", "mpi_yield_when_idle", "1",
                   BUILD / program, *arguments]
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True,
                              timeout=300)
        self.assertEqual(done.returncode, 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done.stdout


class InstalledProgram(Consumer):
    def test_finds_its_libraries_after_the_move(self):
        done = subprocess.run([BUILD.parent / "moved/bin/lockstep", "version"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("LibTorch", done.stdout)


class OwnLoop(Consumer):
    def own_loop(self, num_ranks, run_dir, num_steps):
        lines = self.run_ranks(num_ranks, "own_loop", self.dir / run_dir, num_steps).splitlines()
        losses = [line for line in lines if line.startswith("step ")]
        digest, = (line.split()[1] for line in lines if line.startswith("state_digest "))
        return losses, digest

    def test_the_same_bits_on_1_2_and_3_ranks(self):
        one = self.own_loop(1, "one", 12)
        self.assertEqual(len(one[0]), 12)
        self.assertNotEqual(one[0][0].split()[-1], one[0][11].split()[-1])
        for num_ranks in (2, 3):
            self.assertEqual(self.own_loop(num_ranks, f"on-{num_ranks}", 12), one)

    def test_the_same_bits_after_a_resume_on_another_number_of_ranks(self):
        losses, digest = self.own_loop(1, "straight", 12)
        for first, then in ((2, 3), (3, 1)):
            run_dir = f"{first}-then-{then}"
            before, half_way = self.own_loop(first, run_dir, 7)
            after, end = self.own_loop(then, run_dir, 12)
            self.assertEqual((before + after, end), (losses, digest))
            self.assertNotEqual(half_way, digest)


class TrainerWithAModuleOfOnesOwn(Consumer):
    def train(self, num_ranks, run_dir, *stop_after):
        report = self.dir / f"{run_dir}-{num_ranks}.json"
        self.run_ranks(num_ranks, "trainer", PROJECT / "quadrants.toml", self.dir / run_dir, report, *stop_after)
        return json.loads(report.read_text())

    def test_learns_and_gives_the_same_bits_on_1_2_and_3_ranks_and_after_a_resume(self):
        one = self.train(1, "one")
        self.assertGreater(one["eval"]["accuracy"], 0.9)
        for num_ranks in (2, 3):
            self.assertEqual(self.train(num_ranks, f"on-{num_ranks}")["state_digest"], one["state_digest"])
        half_way = self.train(2, "stopped", 40)
        self.assertEqual(half_way["steps"], 40)
        self.assertNotEqual(half_way["state_digest"], one["state_digest"])
        resumed = self.train(3, "stopped")
        self.assertEqual((resumed["first_step"], resumed["state_digest"]), (40, one["state_digest"]))


if __name__ == "__main__":
    BUILD = pathlib.Path(sys.argv.pop(1))
    unittest.main()
