"""A checkpoint of the real program: its files alone give the digest that the program reported."""
import os
import pathlib
import struct
import subprocess
import sys
import unittest

import runs

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "scripts", "state_digest.py")
PYTHON = os.environ.get("LOCKSTEP_TEST_PYTHON", sys.executable)


class Digest(runs.Case):
    def compute(self, folder, *arguments):
        return subprocess.run([PYTHON, SCRIPT, *arguments, str(folder)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=runs.TIMEOUT_S)

    def test_of_two_ranks_with_batch_norm(self):
        run = self.path("run")
        report = self.train(2, self.recipe(runs.CONVNET), "--run-dir", run)
        (folder,) = pathlib.Path(run, "checkpoints").glob("gen-*")
        done = self.compute(folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.strip(), report["state_digest"])
        self.assertEqual(self.compute(folder, "--params").stdout.strip(), report["params_digest"])

        # One flipped bit of one rank's shard shows.
        shard = sorted(folder.glob("*.safetensors"))[1]
        content = bytearray(shard.read_bytes())
        (header_bytes,) = struct.unpack("<Q", content[:8])
        content[8 + header_bytes + 4] ^= 1
        shard.write_bytes(content)
        done = self.compute(folder)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertNotEqual(done.stdout.strip(), report["state_digest"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
