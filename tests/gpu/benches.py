"""The benchmarks of the GPU suite, and the bars that their figures are to reach."""
import contextlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the tree, or of a package
DDP = ROOT / "benchmarks" / "peers" / "ddp.py"

STEP_AT_MOST = 1.01
ADDITIONS_AT_LEAST = 0.9
STAGING_AT_LEAST = 0.9


def printed(text):
    """The JSON object that a benchmark printed."""
    return json.loads(text[text.index("{"):text.rindex("}") + 1])


def bench_engine(suite):
    # A large GPU waits for its host with the smaller one.
    for batch in (64, 512):
        found = printed(suite.run(f"bench-engine-{batch}", [suite.bin / "step_bench", "--device", "cuda", "--micro-batch", batch]))
        suite.figures[f"step_of_{batch}"] = found
        ratio = found["ratio_median"]
        yield ratio <= STEP_AT_MOST, f"a step of {batch} images takes {ratio:.3f} of a plain loop's time, at most {STEP_AT_MOST}"


def bench_gpu(suite):
    found = printed(suite.run("bench-gpu", [suite.bin / "gpu_bench", "--dir", suite.out / "bench"], timeout_s=180))
    shutil.rmtree(suite.out / "bench", ignore_errors=True)
    suite.figures["gpu"] = found
    for size in found["kernels"]:
        rate = size["over_copy"]["add"]["median"]
        yield rate >= ADDITIONS_AT_LEAST, (f"tree additions of {size['mib']} MiB reach {rate:.3f} of a copy's bandwidth, "
                                           f"at least {ADDITIONS_AT_LEAST}")
    rate = found["staging"]["rate_over_pinned_copy"]["median"]
    yield rate >= STAGING_AT_LEAST, f"staging reaches {rate:.3f} of a pinned copy's rate, at least {STAGING_AT_LEAST}"


def bench_collectives(suite):
    out = suite.out / "bench-collectives.json"
    suite.run("bench-collectives", suite.ranks(2, [suite.bin / "lockstep", "bench", "collectives", "--variants", "--device", "cuda",
                                                   "--share-gpu", "--rounds", "5", "--out", out], suite.is_sharing(2)))
    suite.figures["collectives_of_two_ranks"] = json.loads(out.read_text())
    return ()


def python_with_torch(suite, device):
    """A Python that can run DDP here, or None."""
    wanted = "import numpy, torch; assert torch.cuda.is_available()" if device == "cuda" else "import numpy, torch"
    for python in (sys.executable, pathlib.Path(os.environ.get("LOCKSTEP_DEPS_DIR", ROOT / ".deps")) / "venv/bin/python"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([python, "-c", wanted], env=suite.environment(), capture_output=True, timeout=min(60, suite.left_s()))
            if done.returncode == 0:
                return python
    return None


def bench_step(suite, device="cuda", batch=256):
    """DDP at its best but for pinned ranks: on a GPU a core would be too little for a rank's threads."""
    python = python_with_torch(suite, device)
    for ranks in (1, 2):
        ours = [f"train.micro_batch_size={batch}", f"train.micro_batches_per_step={ranks}", "train.steps=1000", "train.bucket_mib=0",
                "model.dropout=0", "model.batch_norm=false", "clip.max_norm=0", "optimizer.learning_rate=0.001"]
        words = ["--share-gpu", "--steps", "30", "--rounds", "2"]
        for key in ours:
            words += ["--set", key]
        if python:
            words += ["--peer", "ddp=" + shlex.join(map(str, [
                python, DDP, "--ranks", ranks, "--micro-batch", batch, "--device", device, "--data", suite.data(), "--channels-last",
                "--fused", "--bucket-view", "--warm-up", "10", "--windows", "3", "--steps", "20"]))]
        out = suite.out / f"bench-step-{ranks}.json"
        suite.run(f"bench-step-{ranks}", suite.ranks(ranks, [suite.bin / "lockstep", "bench", "step", suite.recipe("bench", device=device),
                                                             *words, "--out", out], suite.is_sharing(ranks)))
        suite.figures[f"step_of_{ranks}_ranks"] = json.loads(out.read_text())
    if not python:
        suite.figures["ddp"] = "not run: no Python here has numpy, and torch with a GPU"
    return ()


BENCHES = (bench_engine, bench_gpu, bench_collectives, bench_step)
