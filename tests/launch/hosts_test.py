"""The real program on several hosts, each a set of namespaces on this machine: the bits are those of one host."""
import json
import pathlib
import unittest

import runs

HOSTS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/hosts.py"
CANNOT = 77


class Hosts(runs.Case):
    def on_hosts(self, num_hosts, rate, *arguments, ranks_per_host=1):
        """So many ranks on each of so many hosts; what they wrote on standard error."""
        hosts = [str(HOSTS), "--hosts", str(num_hosts), "--slots", str(ranks_per_host), "--rate", rate]
        mpirun = ["mpirun", "-n", str(num_hosts * ranks_per_host), runs.LOCKSTEP]
        done = runs.subprocess.run([*hosts, "--", *mpirun, *map(str, arguments)], env=runs.environment(), cwd=self.folder,
                                   stdout=runs.subprocess.PIPE, stderr=runs.subprocess.PIPE, text=True, timeout=runs.TIMEOUT_S)
        if done.returncode == CANNOT:
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        return done.stderr

    def test_parameters_and_checkpoints_are_those_of_one_host(self):
        recipe = self.recipe(runs.MLP)
        expected = self.train(1, recipe)["state_digest"]
        for num_hosts, first, then, ranks_per_host in ((2, 4, 3, 1), (3, 5, 2, 2)):
            run, report = self.path(f"run-{num_hosts}"), self.path(f"report-{num_hosts}.json")
            told = self.on_hosts(num_hosts, "1gbit", "train", recipe, "--run-dir", run, "--stop-after", first)
            self.assertIn(f"{num_hosts} ranks on {num_hosts} hosts", told)
            told = self.on_hosts(then, "none", "train", recipe, "--run-dir", run, "--report", report, ranks_per_host=ranks_per_host)
            self.assertIn(f"{then * ranks_per_host} ranks on {then} hosts", told)
            report = json.loads(pathlib.Path(report).read_text(encoding="utf-8"))
            self.assertEqual((report["first_step"], report["state_digest"]), (first, expected))

    def test_waiting_for_the_wire_is_told_of_each_step(self):
        run = self.path("run")
        self.on_hosts(2, "100mbit", "train", self.recipe(runs.MLP), "--run-dir", run)
        lines = [json.loads(line) for line in pathlib.Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [line for line in lines if line["event"] == "step"]
        for step in steps:
            self.assertGreater(step["communication_ms"], 0)
            self.assertGreaterEqual(step["exposed_ms"], 0)
        # 44,352 parameters: half of them each way, twice, is 177 KB of the wire's 12.5 MB/s, most of it beyond its burst.
        self.assertGreater(sum(step["communication_ms"] for step in steps), len(steps) * 177e3 / 12.5e6 * 1e3 / 2)
        self.assertGreater(sum(step["exposed_ms"] for step in steps), 0)


if __name__ == "__main__":
    unittest.main()
