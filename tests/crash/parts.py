"""The parts of the campaign as the script sees them: what each runs, what it must reach, what a row of the report is."""
import collections
import json
import os
import shutil
import subprocess
import sys
import threading
import time


class Context:
    """What a part is given: the build, the form, a folder of its own, a place to tell how far it is."""

    def __init__(self, chosen, folder, tell):
        self.program = os.path.join(chosen.build, "tests", "crash_campaign")
        self.lockstep = os.path.join(chosen.build, "bin", "lockstep")
        self.is_short = chosen.short
        self.jobs = chosen.jobs
        self.most_seconds = chosen.most_minutes * 60
        self.folder = folder
        self.tell = tell


def row(part, what, tried, lost, seconds, at_least=None, **more):
    verdict = "passed"
    if lost:
        verdict = f"FAILED: {lost} lost"
    elif at_least is not None and tried < at_least:
        verdict = f"FAILED: fewer than {at_least:,} tried"
    return dict(part=part, what=what, tried=tried, lost=lost, seconds=seconds, at_least=at_least, verdict=verdict, **more)


def not_run(part, what, reason, at_least=None):
    return dict(part=part, what=what, tried=0, lost=0, seconds=0, at_least=at_least, verdict=f"not run: {reason}")


def line_of(each):
    if each["verdict"].startswith("not run"):
        return f"{each['part']:12s} {each['what']}: {each['verdict']}"
    return (f"{each['part']:12s} {each['what']}: {each['tried']:,} tried, {each['lost']} lost, {each['seconds']:.0f} s: "
            f"{each['verdict']}")


class Crashed(Exception):
    pass


def run_program(context, part, options, shares):
    """Runs the program's part, its work shared by several processes; the sums of what they report."""
    total = {"counts": collections.Counter(), "tables": {}, "num_violations": 0, "violations": []}
    progress = [0.0] * shares
    failures = []
    lock = threading.Lock()

    def run_share(index):
        command = [context.program, part, "--part", str(index), "--parts", str(shares)]
        for name, value in options.items():
            command += [f"--{name}", str(value).replace("{share}", str(index))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            lines = []
            for line in process.stderr:
                words = line.split()
                if len(words) == 3 and words[0] == "progress":
                    progress[index] = int(words[1]) / max(1, int(words[2]))
                    context.tell(sum(progress) / shares)
                else:
                    lines.append(line)
            output = process.stdout.read()
            status = process.wait()
        with lock:
            if status not in (0, 1):
                failures.append(f"{' '.join(command)} ended with {status}: {''.join(lines[-10:])}")
                return
            result = json.loads(output)
            total["counts"].update(result["counts"])
            for table, entries in result["tables"].items():
                merge(total["tables"].setdefault(table, {}), entries)
            total["num_violations"] += result["num_violations"]
            total["violations"] += result["violations"]

    threads = [threading.Thread(target=run_share, args=(index,)) for index in range(shares)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Crashed("; ".join(failures))
    return total


def merge(table, entries):
    """Adds numbers; keeps the first of two equal texts."""
    for name, value in entries.items():
        old = table.get(name)
        if old is not None and old.isdigit() and value.isdigit():
            value = str(int(old) + int(value))
        table[name] = value


class ProgramPart:
    """A part that is the program's alone. `counts` are (name of the count, what it is, least in the long form). `control`
    is (what is broken on purpose, options): the program must find something then."""

    def __init__(self, name, counts, short, long, can_share=True, needs_folder=False, control=None):
        self.name = name
        self._counts = counts
        self._options = {True: short, False: long}
        self._can_share = can_share
        self._needs_folder = needs_folder
        self._control = control

    def counts_of(self, context, options, total):
        """Counts that only all shares together have."""
        return {}

    def try_control(self, context, options, total):
        what, more = self._control
        is_caught = run_program(context, self.name, {**options, **more}, 1)["num_violations"] > 0
        total["tables"]["controls"] = {what: "caught" if is_caught else "NOT CAUGHT"}
        if not is_caught:
            total["num_violations"] += 1
            total["violations"].append(f"a control that must fail passes: {what}")

    def run(self, context):
        options = dict(self._options[context.is_short])
        if self._needs_folder:
            options["folder"] = context.folder
        start = time.monotonic()
        try:
            total = run_program(context, self.name, options, context.jobs if self._can_share else 1)
            if self._control:
                self.try_control(context, options, total)
        except Crashed as error:
            what = self._counts[0][1]
            return [row(self.name, what, 0, 1, time.monotonic() - start, violations=[str(error)])]
        total["counts"].update(self.counts_of(context, options, total))
        seconds = time.monotonic() - start
        rows = []
        for name, what, least in self._counts:
            tried = sum(count for key, count in total["counts"].items() if key == name or
                        (name.endswith("*") and key.startswith(name[:-1])))
            first = not rows
            rows.append(row(self.name, what, tried, total["num_violations"] if first else 0, seconds if first else 0,
                            None if context.is_short else least,
                            **({"tables": total["tables"], "violations": total["violations"],
                                "counts": dict(total["counts"])} if first else {})))
        return rows


class ModelPart(ProgramPart):
    """Two processes may meet one disk: it counts once."""

    def run(self, context):
        for options in self._options.values():
            options["hashes"] = os.path.join(context.folder, "states-{share}")
        return super().run(context)

    def counts_of(self, context, options, total):
        states = set()
        for share in range(context.jobs):
            with open(options["hashes"].replace("{share}", str(share)), encoding="ascii") as file:
                states.update(file.read().split())
        return {"states": len(states)}


class PowerCuts:
    """Needs a private mount namespace, a loop device and ext4's shutdown: root on a machine that lends them."""

    name = "power"
    _what = "power cuts of a loop-mounted ext4 below a running operation, 1-2 ranks"

    def run(self, context):
        most = 8 if context.is_short else 400
        least = None if context.is_short else 300
        folder = os.path.join(context.folder, "power")
        os.makedirs(folder)
        for tool in ("unshare", "mkfs.ext4", "mount"):
            if shutil.which(tool) is None:
                return [not_run(self.name, self._what, f"no {tool} here", least)]
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "power_cuts.py")
        command = ["unshare", "-m", "--propagation", "private", sys.executable, script, context.program, folder, str(most),
                   "1"]
        probe = subprocess.run([*command[:6], "probe", context.program, folder], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
        if probe.returncode != 0:
            reason = (probe.stderr.strip().splitlines() or ["refused"])[-1]
            return [not_run(self.name, self._what, reason, least)]
        start = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            other = []
            for line in process.stderr:
                words = line.split()
                if len(words) == 3 and words[0] == "progress":
                    context.tell(int(words[1]) / int(words[2]))
                else:
                    other.append(line)
            output = process.stdout.read()
        seconds = time.monotonic() - start
        if process.returncode != 0:
            return [row(self.name, self._what, 0, 1, seconds, least, violations=["".join(other[-20:])])]
        result = json.loads(output)
        tables = {"controls on ext4": result["controls"]} if result["controls"] else {}
        return [row(self.name, self._what, result["cuts"], len(result["violations"]), seconds, least,
                    violations=result["violations"][:20], tables=tables)]


def all_parts():
    import real_program
    return PARTS + [
        PowerCuts(),
        real_program.Disturbance("strace", "SIGKILL at a system call of one rank of the real program under mpirun, then a "
                                 "resume on another number of ranks", real_program.kill_at_call, {True: 0, False: 100}, 100,
                                 steps=8, every_steps=2, needs=("strace",)),
        real_program.Disturbance("syscalls", "a system call of one rank of the real program fails or is interrupted (EINTR, "
                                 "EIO, ENOSPC, EDQUOT), then a resume on another number of ranks",
                                 real_program.error_at_call, {True: 0, False: 100}, 100, steps=8, every_steps=2,
                                 needs=("strace",)),
        real_program.Disturbance("resumes", "SIGKILL of one rank of the real program at a random moment, then a resume on "
                                 "another number of ranks; saves behind training in half of them",
                                 real_program.kill_at_random, {True: 0, False: 100}, 100, steps=80, every_steps=10),
    ]


PARTS = [
    ModelPart("model", [("states", "distinct crash states in memory, 1-4 ranks; wrong protocols as controls", 100_000),
                          ("kill_points", "calls at which the model was cut", None)],
                short={"exhaustive": 8, "samples": 6, "cut-starts": 2},
                long={"exhaustive": 64, "samples": 1200, "cut-starts": 40}),
    ProgramPart("errors", [("errors_*", "ENOSPC, EDQUOT, EIO and short writes at the k-th call, 1-4 ranks", 1000)],
                short={"every": 3, "one-case-of": 23}, long={"every": 1}),
    ProgramPart("flips", [("flips", "single bits of a checkpoint's files, refused before a tensor has them", 100_000),
                          ("flips_attempt_file", "single bits of attempt files", None),
                          ("flips_token", "single bits of the token", None)],
                short={"every": 150}, long={"every": 1}),
    ProgramPart("kills", [("kill_points", "(step, call, rank, world) at which a rank as a process got SIGKILL, real disk",
                           5000),
                          ("kills", "SIGKILLs there, of that rank alone and of all at once", None)],
                short={"every": 200}, long={"every": 1}, needs_folder=True),
    ProgramPart("freezes", [("freezes_*", "whole attempts frozen at a step or call, another one takes over, the first goes "
                             "on; 1-3 ranks", 500)],
                short={"every": 150}, long={"every": 1}, needs_folder=True,
                control=("an attempt that does not see who takes over", {"control": 1, "every": 36})),
    ProgramPart("bounded", [("troubles", "one rank frozen, slow, with an error of its disk, or dying; the others name it in "
                             "time and save again", 100)],
                short={"every": 450}, long={"every": 5}, needs_folder=True,
                control=("ranks that wait for a minute", {"control": 1, "every": 1})),
    ProgramPart("worlds", [("pairs", "pairs of numbers of ranks (saved on 1-8, read on 1-8)", 64)],
                short={}, long={}, can_share=False, needs_folder=True),
]
