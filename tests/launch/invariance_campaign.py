#!/usr/bin/env python3
"""Every combination that the promise names, on the real program; too long for the suite (about ten minutes on 2 cores).

    LOCKSTEP_BIN=build/release/bin/lockstep python3 tests/launch/invariance_campaign.py [--out FILE.json]

Model x optimizer x micro-batches of a step x micro-batches of a leaf, each on every number of ranks up to 8, with
buckets of another size on every number. Exit status 1 when a digest differs from that of one rank.
"""
import argparse
import itertools
import json
import os
import sys
import time
import unittest

os.environ["LOCKSTEP_BIN"] = os.path.abspath(os.environ["LOCKSTEP_BIN"])
import runs

MODELS = {"mlp": runs.MLP, "convnet": runs.CONVNET}
BUCKETS_MIB = [4, 0.01, 0.0625, 0.13, 0.5, 1, 0.07, 0.3]  # by number of ranks; 0.01 is one block


class Campaign(runs.Case):
    out = None

    def test_every_combination(self):
        found = []
        for model, optimizer, micro_batches, leaf in itertools.product(MODELS, ("adamw", "sgd"), (8, 11, 12), (1, 2)):
            digests = {}
            for ranks in range(1, min(8, -(-micro_batches // leaf)) + 1):
                report = self.train(ranks, self.recipe(MODELS[model]), "--set", f"optimizer.name={optimizer}",
                                    "--set", "train.steps=3", "--set", f"train.micro_batches_per_step={micro_batches}",
                                    "--set", f"train.leaf_micro_batches={leaf}",
                                    "--set", f"train.bucket_mib={BUCKETS_MIB[ranks - 1]}")
                digests[ranks] = report["state_digest"]
            case = {"model": model, "optimizer": optimizer, "micro_batches_per_step": micro_batches,
                    "leaf_micro_batches": leaf, "state_digest_by_ranks": digests}
            found.append(case)
            same = len(set(digests.values())) == 1
            print(f"{'same' if same else 'DIFFERENT'} on {len(digests)} worlds: {model} {optimizer} "
                  f"{micro_batches} micro-batches, leaves of {leaf}", flush=True)
        # Leaves of two add the pairs that a tree over eight adds first: the same numbers, and so the same digest.
        apart = {case["state_digest_by_ranks"][1] for case in found if case["leaf_micro_batches"] == 1}
        self.assertEqual(len(apart), len(found) // 2, "digests tell recipes apart")
        if self.out:
            with open(self.out, "w", encoding="utf-8") as file:
                json.dump({"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "cases": found}, file, indent=1)
                file.write("\n")
        for case in found:
            self.assertEqual(len(set(case["state_digest_by_ranks"].values())), 1, case)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON file with every digest")
    Campaign.out = parser.parse_args().out
    unittest.main(argv=sys.argv[:1])
