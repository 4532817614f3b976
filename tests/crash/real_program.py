"""The real program under mpirun: killed at a system call (strace), an error given to a system call (strace), killed at a
random moment; resumed on another number of ranks. The digest of each finished run must be that of the run that nobody disturbed."""
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import parts

# How many of each a run of that length makes: on rank 0, on another rank.
SYSCALLS = {"fsync": (39, 8), "renameat2": (5, 0), "write": (110, 45), "openat": (850, 750), "mkdir": (8, 1),
            "unlink": (11, 2), "ftruncate": (6, 5), "fallocate": (4, 4), "io_uring_enter": (12, 12), "pread64": (30, 8),
            "getdents64": (130, 40), "writev": (15, 15)}
# Next to nothing else makes these: MPI sets the size of its own memory with ftruncate, the loader of programs reads with
# pread64, and neither bears an interruption.
FILE_SYSCALLS = ("fsync", "io_uring_enter", "renameat2", "fallocate", "pwrite64", "unlink")
MAY_BE_INTERRUPTED = ("fsync", "io_uring_enter", "fallocate", "pwrite64")
WORLDS = (1, 2, 3, 4)
TIMEOUT_S = 300


class Program:
    """Starts `lockstep train` with the tests' smallest recipe."""

    def __init__(self, context, name, steps, every_steps):
        os.environ["LOCKSTEP_BIN"] = context.lockstep
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "launch"))
        import runs
        self.runs = runs
        self._lockstep = context.lockstep
        self.folder = os.path.join(context.folder, name)
        os.makedirs(self.folder)
        table = os.path.join(self.folder, "table.csv")
        subprocess.run([context.lockstep, "data", "make-tabular", "--rows", "200", "--features", "10", "--seed", "1", table],
                       check=True)
        self._recipe = os.path.join(self.folder, "recipe.toml")
        with open(self._recipe, "w", encoding="utf-8") as file:
            file.write(runs.MLP.replace("{table}", table).replace("steps = 8", f"steps = {steps}"))
        self._more = ["--set", f"checkpoint.every_steps={every_steps}"]

    def command(self, ranks, run_dir, wrapped_rank=None, wrapper=(), more=()):
        program = [self._lockstep, "train", self._recipe, "--run-dir", run_dir, *self._more, *more]
        if wrapped_rank is not None:
            choice = f'if [ "$OMPI_COMM_WORLD_RANK" = {wrapped_rank} ]; then exec "$@"; fi; shift {len(wrapper)}; exec "$@"'
            program = ["sh", "-c", choice, "sh", *wrapper, *program]
        return ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
                *program]

    def start(self, *arguments, **more):
        return subprocess.Popen(self.command(*arguments, **more), env=self.runs.environment(), cwd=self.folder,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, ranks, run_dir, more=()):
        """Runs to the end; returns the report, or what went wrong as a text."""
        report = run_dir + ".json"
        process = self.start(ranks, run_dir, more=["--report", report, *more])
        try:
            _, errors = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"{ranks} ranks: no end within {TIMEOUT_S} s"
        if process.returncode != 0:
            return f"{ranks} ranks: exit status {process.returncode}: {errors[-1500:]}"
        with open(report, encoding="utf-8") as file:
            return json.load(file)


@dataclasses.dataclass
class Disturbed:
    """What was done to a run, for messages, and what it did wrong by then."""
    where: str
    wrong: str = ""


class Disturbance:
    """Disturbs a run `times` times and finishes each; `disturb(program, run_dir, draw, number)` returns a Disturbed, or None
    when it could not be done that time."""

    def __init__(self, name, what, disturb, times, at_least, steps, every_steps, needs=()):
        self.name = name
        self._what = what
        self._disturb = disturb
        self._times = times
        self._at_least = at_least
        self._steps = steps
        self._every_steps = every_steps
        self._needs = needs

    def run(self, context):
        if self._times[context.is_short] == 0:
            return []
        least = None if context.is_short else self._at_least
        if not os.path.exists(context.lockstep):
            return [parts.not_run(self.name, self._what, f"{context.lockstep} was not built", least)]
        for tool in ("mpirun", *self._needs):
            if shutil.which(tool) is None:
                return [parts.not_run(self.name, self._what, f"no {tool} here", least)]
        start = time.monotonic()
        program = Program(context, self.name, self._steps, self._every_steps)
        undisturbed = program.finish(2, os.path.join(program.folder, "undisturbed"))
        if isinstance(undisturbed, str):
            return [parts.row(self.name, self._what, 0, 1, time.monotonic() - start, violations=[undisturbed])]
        draw = random.Random(1)
        tried, not_reached, violations = 0, 0, []
        times = self._times[context.is_short]
        for number in range(times * 2):
            if tried == times or time.monotonic() - start > context.most_seconds:
                break
            run_dir = os.path.join(program.folder, f"run-{number}")
            done = self._disturb(program, run_dir, draw, number)
            if done is None:
                not_reached += 1
            else:
                tried += 1
                where = done.where
                if done.wrong:
                    violations.append(f"{where}: {done.wrong}")
                ranks = draw.choice(WORLDS)
                report = program.finish(ranks, run_dir)
                if isinstance(report, str):
                    violations.append(f"{where}: {report}")
                elif report["state_digest"] != undisturbed["state_digest"]:
                    violations.append(f"{where}, resumed on {ranks}: another digest")
            shutil.rmtree(run_dir, ignore_errors=True)
            context.tell(tried / times)
        return [parts.row(self.name, self._what, tried, len(violations), time.monotonic() - start, least,
                          violations=violations[:20], counts={"not_reached": not_reached})]


def kill_at_call(program, run_dir, draw, number):
    """strace raises SIGKILL in one rank at the k-th call of one kind."""
    ranks = draw.choice(WORLDS)
    rank = draw.randrange(ranks)
    call = sorted(SYSCALLS)[number % len(SYSCALLS)]
    k = draw.randint(1, max(1, SYSCALLS[call][0 if rank == 0 else 1]))
    wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={k}"]
    process = program.start(ranks, run_dir, wrapped_rank=rank, wrapper=wrapper)
    try:
        process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    if process.returncode == 0:
        return None  # it made fewer calls
    return Disturbed(f"rank {rank} of {ranks} killed at call {k} of {call}")


def error_at_call(program, run_dir, draw, number):
    """strace lets the k-th call of one kind fail in one rank. An interrupted call is made again: nobody notices. Any other
    error is told, and ends the run or the save, never the process by a signal."""
    ranks = draw.choice(WORLDS)
    rank = draw.randrange(ranks)
    error = ("EINTR", "EIO", "ENOSPC", "EDQUOT")[number % 4]
    call = draw.choice(MAY_BE_INTERRUPTED if error == "EINTR" else FILE_SYSCALLS)
    k = draw.randint(1, 20 if call == "fsync" else 4)
    more = ["--set", 'checkpoint.io="threads"'] if call == "pwrite64" else []
    log = run_dir + ".strace"
    wrapper = ["strace", "-f", "-qq", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={k}"]
    process = program.start(ranks, run_dir, wrapped_rank=rank, wrapper=wrapper, more=more)
    try:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Disturbed(f"{error} at call {k} of {call}, rank {rank} of {ranks}", "it hangs")
    with open(log, encoding="utf-8", errors="replace") as file:
        if "(INJECTED)" not in file.read():
            return None
    where = f"{error} at call {k} of {call}, rank {rank} of {ranks}"
    if error == "EINTR" and process.returncode != 0:
        return Disturbed(where, f"it is not tried again: exit status {process.returncode}: {errors[-800:]}")
    if process.returncode < 0 or process.returncode > 128:
        return Disturbed(where, f"ends by a signal ({process.returncode}): {errors[-800:]}")
    return Disturbed(where)


def kill_at_random(program, run_dir, draw, number):
    """SIGKILL to one rank some time after its first step; saves behind training every other time."""
    ranks = draw.choice(WORLDS)
    rank = draw.randrange(ranks)
    mode = ("sync", "async")[number % 2]
    process = program.start(ranks, run_dir, more=["--set", f'checkpoint.mode="{mode}"'])
    killer = threading.Timer(TIMEOUT_S, process.kill)
    killer.start()
    try:
        for line in process.stderr:
            if line.startswith("step 1/"):
                break
        time.sleep(draw.uniform(0, 1))
        pid = program.runs.ranks_of(process.pid).get(rank)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    except ProcessLookupError:
        process.communicate()
    finally:
        killer.cancel()
    return None if process.returncode == 0 else Disturbed(f"rank {rank} of {ranks} killed, {mode} saves")
