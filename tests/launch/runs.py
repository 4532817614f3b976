"""Starts the real program under mpirun and reads what it reports; shared by the tests of this folder."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

LOCKSTEP = os.environ["LOCKSTEP_BIN"]
TIMEOUT_S = 300  # a shared machine may give a test a twentieth of a processor for minutes

# Small enough for a second, hard enough to notice a wrong bit: dropout, clipping, a schedule, blocks of several ranks.
MLP = """
[model]
name = "mlp"
hidden = [256, 160]
dropout = 0.2
[data]
name = "csv"
path = "{table}"
label = "label"
[train]
seed = 3
steps = 8
micro_batch_size = 4
micro_batches_per_step = 12
bucket_mib = 0.1
[optimizer]
name = "adamw"
learning_rate = 0.005
[schedule]
name = "cosine"
[clip]
max_norm = 0.5
[eval]
every_epochs = 0
[checkpoint]
timeout_s = 120
"""

CONVNET = """
[model]
name = "convnet"
dropout = 0.3
batch_norm = true
[data]
name = "fashion_mnist"
[train]
seed = 3
steps = 3
micro_batch_size = 2
micro_batches_per_step = 11
memory_format = "channels_last"
bucket_mib = 0.5
[optimizer]
name = "sgd"
learning_rate = 0.05
momentum = 0.9
[clip]
max_norm = 0.5
[eval]
every_epochs = 0
[checkpoint]
timeout_s = 120
"""


def environment():
    env = dict(os.environ, OMP_NUM_THREADS="1")
    if os.geteuid() == 0:
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return env


class Case(unittest.TestCase):
    """A folder of its own, a table, and the program."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="lockstep-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.table = self.path("table.csv")

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def recipe(self, text):
        if "{table}" in text and not os.path.exists(self.table):
            subprocess.run([LOCKSTEP, "data", "make-tabular", "--rows", "200", "--features", "10", "--seed", "1",
                            self.table], check=True)
        return self.write("recipe.toml", text.replace("{table}", self.table))

    def command(self, ranks, *arguments):
        start = [] if ranks == 0 else ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none",
                                       "--mca", "mpi_yield_when_idle", "1"]
        return start + [LOCKSTEP, *arguments]

    def run_program(self, ranks, *arguments, timeout=TIMEOUT_S, env=None):
        """Runs to the end; returns the finished process with its text."""
        return subprocess.run(self.command(ranks, *arguments), env=env or environment(), cwd=self.folder,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)

    def lockstep(self, *arguments, expect=0):
        """One command without mpirun that ends with `expect`; the finished process."""
        done = self.run_program(0, *map(str, arguments))
        self.assertEqual(done.returncode, expect, f"{arguments}:\n{done.stdout}\n{done.stderr}")
        return done

    def program(self, ranks, *arguments, expect=0):
        """A command on some ranks that ends with `expect`; the finished process."""
        done = self.run_program(ranks, *map(str, arguments))
        self.assertEqual(done.returncode, expect, f"{ranks} ranks {arguments}:\n{done.stdout[-500:]}\n{done.stderr[-3000:]}")
        return done

    def checkpoint(self, run):
        """The only checkpoint of a run."""
        (folder,) = pathlib.Path(run, "checkpoints").glob("gen-*")
        return folder

    def train(self, ranks, recipe, *arguments, expect=0):
        """A training run that ends with `expect`; returns its report."""
        report = self.path("report.json")
        if os.path.exists(report):
            os.remove(report)
        done = self.run_program(ranks, "train", recipe, "--report", report, *arguments)
        self.assertEqual(done.returncode, expect, f"{ranks} ranks {arguments}:\n{done.stderr[-3000:]}")
        with open(report, encoding="utf-8") as file:
            return json.load(file)

    def start(self, ranks, *arguments):
        """Starts a run in the background; it is ended with the test."""
        return self.start_command(self.command(ranks, *arguments))

    def start_command(self, command):
        process = subprocess.Popen(command, env=environment(), cwd=self.folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)

        def end():
            if process.poll() is None:
                process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def wait_for(self, question, what, timeout=TIMEOUT_S):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if question():
                return
            time.sleep(0.05)
        self.fail(f"waited {timeout} s for {what}")

    def num_checkpoints(self, run):
        try:
            return sum(name.startswith("gen-") for name in os.listdir(os.path.join(run, "checkpoints")))
        except FileNotFoundError:
            return 0


def children_of(pid):
    """Process ids of the children of a process."""
    found = []
    for child in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{child}/stat", encoding="utf-8") as file:
                if int(file.read().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(child))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


def ranks_of(mpirun_pid):
    """Process ids of the ranks that an mpirun started, by rank."""
    found = {}
    for pid in children_of(mpirun_pid):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                for item in file.read().split(b"\0"):
                    if item.startswith(b"OMPI_COMM_WORLD_RANK="):
                        found[int(item.split(b"=")[1])] = pid
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)
