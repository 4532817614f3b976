"""Weights to Python and back: torch runs what was exported, and a run starts from what torch made."""
# Covers: import_command.cc, recipe_parts.cc
import json
import os
import pathlib
import subprocess
import unittest

import runs
import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Net(nn.Module):
    """The network of round_trip_main.cc."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.linear = nn.Linear(16 * 6 * 6, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        return self.linear(torch.relu(self.conv2(x)).flatten(1))


class Convnet(nn.Module):
    """Names and shapes of the recipe's model "convnet" with batch_norm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.linear1, self.linear2 = nn.Linear(64 * 7 * 7, 128), nn.Linear(128, 10)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


class RoundTrip(runs.Case):
    def setUp(self):
        super().setUp()
        torch.set_num_threads(1)

    def test_torch_gives_the_same_logits(self):
        subprocess.run([os.environ["LOCKSTEP_ROUND_TRIP"], self.folder], check=True, env=runs.environment())
        checkpoint = self.checkpoint(self.path("run"))
        weights = self.path("weights, \u00fcber alles.safetensors")
        self.lockstep("ckpt", "export", checkpoint, weights, "--all")
        state = {name: value for name, value in load_file(weights).items() if "/" not in name}
        probe = load_file(self.path("probe.safetensors"))
        net = Net()
        net.load_state_dict(state)  # strict: every name and shape is there, and no other
        net.eval()
        with torch.no_grad():
            row_major = net(probe["inputs"])
            net.to(memory_format=torch.channels_last)  # as the run trained
            logits = net(probe["inputs"].contiguous(memory_format=torch.channels_last))
        self.assertTrue(same_bits(logits, probe["logits"]), (logits - probe["logits"]).abs().max())
        # Other kernels add the same products, at most 576 a sum, in another order.
        self.assertLess((row_major - logits).abs().max(), 576 * 2**-24 * max(1, logits.abs().max()) * 4)
        for shard in checkpoint.glob("*.safetensors"):
            self.assertIn("block_xxh3_64", load_file(shard))

    def test_a_run_starts_from_what_torch_made(self):
        torch.manual_seed(1)
        model = Convnet()
        model.norm1.running_mean.normal_()
        made = {name: value for name, value in model.state_dict().items() if "norm2.running" not in name}
        weights = self.path("made by torch.safetensors")
        save_file(made, weights)
        recipe, run = self.recipe(runs.CONVNET), self.path("a run")
        told = json.loads(self.lockstep("ckpt", "import", weights, run, "--recipe", recipe, "--json").stdout)
        self.assertEqual(told["kept"], ["norm2.running_mean", "norm2.running_var"])
        self.assertEqual(told["num_tensors"], len(made))
        self.assertEqual(pathlib.Path(told["path"]), self.checkpoint(run))

        out = self.path("out.safetensors")
        self.lockstep("ckpt", "export", told["path"], out, "--all")
        exported = load_file(out)
        for name, value in made.items():
            self.assertTrue(same_bits(exported[name], value), name)
        self.assertTrue(all(not exported[name].any() for name in exported if "/" in name), "no optimizer state yet")
        self.lockstep("ckpt", "verify", told["path"])

        trained = self.train(1, recipe, "--run-dir", run)
        self.assertEqual((trained["first_step"], trained["resumed_from"]), (0, told["path"]))
        other = self.path("other run")
        again = json.loads(self.lockstep("ckpt", "import", weights, other, "--recipe", recipe, "--json").stdout)
        self.assertEqual(again["state_digest"], told["state_digest"])
        self.assertEqual(self.train(2, recipe, "--run-dir", other)["params_digest"], trained["params_digest"])

    def test_weights_that_do_not_fit_are_refused_by_name(self):
        recipe, run, weights = self.recipe(runs.MLP), self.path("run"), self.path("weights.safetensors")
        first = {f"{layer}.{kind}": torch.zeros(*shape) for layer, out, of in ((0, 256, 10), (1, 160, 256), (2, 2, 160))
                 for kind, shape in (("weight", (out, of)), ("bias", (out,)))}
        wrong = dict(first, **{"0.weight": torch.zeros(256, 11), "1.bias": torch.zeros(160, dtype=torch.float16),
                               "head.weight": torch.zeros(1)})
        del wrong["2.bias"]
        save_file(wrong, weights)
        refused = self.lockstep("ckpt", "import", weights, run, "--recipe", recipe, expect=64).stderr
        for line in ("shape: 0.weight: the model has [256, 10], the file [256, 11]",
                     "dtype: 1.bias: the model has F32, the file F16", "missing: 2.bias",
                     "unexpected: head.weight"):
            self.assertIn(line, refused)
        self.assertEqual(self.num_checkpoints(run), 0)

        save_file(first, weights)
        with open(weights, "r+b") as file:
            file.truncate(os.path.getsize(weights) - 1)
        self.lockstep("ckpt", "import", weights, run, "--recipe", recipe, expect=65)
        self.lockstep("ckpt", "import", self.path("nowhere"), run, "--recipe", recipe, expect=65)
        save_file(first, weights)
        self.lockstep("ckpt", "import", weights, "/proc/run", "--recipe", recipe, expect=74)
        self.lockstep("ckpt", "import", weights, run, "--recipe", recipe)
        self.lockstep("ckpt", "import", weights, run, "--recipe", recipe, expect=64)
        self.assertEqual(self.num_checkpoints(run), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
