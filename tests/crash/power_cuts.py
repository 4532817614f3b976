"""Power cuts of a real ext4: a loop-mounted image, shut down below a running save, mounted again and judged.

Run by the campaign in a mount namespace of its own: power_cuts.py PROGRAM FOLDER CUTS SEED. Prints "progress n total"
lines on stderr and one JSON object on stdout. With less than 100 cuts the controls are left out.
"""
import json
import os
import random
import subprocess
import sys
import time

IMAGE_MIB = 64  # a save wants 16 MiB to spare


class Image:
    """One ext4 image; `base` images hold what was there before an operation."""

    def __init__(self, program, folder):
        self._program = program
        self._folder = folder
        self._mount = os.path.join(folder, "mount")
        self._image = os.path.join(folder, "image")
        self._bases = {}
        os.makedirs(self._mount, exist_ok=True)

    def call(self, action, subject, ranks=1, **more):
        command = [self._program, "cut", "--action", action, "--mount", self._mount, "--subject", subject, "--ranks",
                   str(ranks)]
        for name, value in more.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=180)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return json.loads(done.stdout)

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self._image, self._mount], check=True)

    def unmount(self):
        # The kernel takes a process's io_uring apart after the process has ended, and holds its files until then.
        deadline = time.monotonic() + 20
        while (done := subprocess.run(["umount", self._mount], capture_output=True, text=True)).returncode != 0:
            if "busy" not in done.stderr or time.monotonic() > deadline:
                raise RuntimeError(done.stderr)
            time.sleep(0.05)

    def base_of(self, subject):
        if subject not in self._bases:
            subprocess.run(["truncate", "-s", "0", self._image], check=True)
            subprocess.run(["truncate", "-s", f"{IMAGE_MIB}M", self._image], check=True)
            subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)
            self.mount()
            try:
                self.call("prepare", subject)
            finally:
                self.unmount()
            path = os.path.join(self._folder, f"base-{len(self._bases)}")
            subprocess.run(["cp", "--sparse=always", self._image, path], check=True)
            self._bases[subject] = path
        return self._bases[subject]

    def cut(self, subject, ranks, at):
        """Returns (whether the cut came before the end, what is wrong)."""
        subprocess.run(["cp", "--sparse=always", self.base_of(subject), self._image], check=True)
        self.mount()
        try:
            ran = self.call("run", subject, ranks, at=at)["counts"]
        finally:
            self.unmount()
        self.mount()
        try:
            judged = self.call("judge", subject, ranks, acknowledged=ran.get("acknowledged", 0))
        finally:
            self.unmount()
        return bool(ran.get("was_cut")), judged["violations"]


def probe(program, folder):
    """Ends with an error, and its reason last on stderr, where this machine can't cut the power of a file system."""
    try:
        _, wrong = Image(program, folder).cut("save", 1, 1000)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        sys.exit(" ".join(str(error).split()))
    if wrong:
        print(wrong, file=sys.stderr)


def main():
    if sys.argv[1] == "probe":
        return probe(sys.argv[2], os.path.join(sys.argv[3], "probe"))
    program, folder, most_cuts, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    image = Image(program, folder)
    tables = image.call("list", "save")["tables"]
    draw = random.Random(seed)
    result = {"cuts": 0, "violations": [], "controls": {}}
    plan = []
    for subject in sorted(tables["operations"]):
        for ranks in (1, 2):
            plan += [(subject, ranks, at) for at in range(1, 70)]
    draw.shuffle(plan)
    beyond = {}  # (subject, ranks): a call that is never reached
    for subject, ranks, at in plan:
        if result["cuts"] >= most_cuts:
            break
        if at >= beyond.get((subject, ranks), 1000):
            continue
        was_cut, wrong = image.cut(subject, ranks, at)
        result["cuts"] += 1
        if not was_cut:
            beyond[subject, ranks] = min(at, beyond.get((subject, ranks), 1000))
        result["violations"] += [f"{subject} on {ranks}, cut before call {at}: {each}" for each in wrong]
        print("progress", result["cuts"], most_cuts + 20, file=sys.stderr, flush=True)
    for subject in sorted(tables["controls"]) if most_cuts >= 100 else []:
        is_wrong = tables["controls"][subject] == "wrong"
        calls = [*range(1, 20), 1000]  # 1000: right after it was acknowledged
        caught = None
        for at in calls if is_wrong else calls[-1:]:
            was_cut, wrong = image.cut(subject, 1, at)
            if wrong:
                caught = at
                break
            if not was_cut and at != 1000:
                break
        if is_wrong:
            result["controls"][subject] = "passes: ext4 is too kind to it" if caught is None else "caught"
        else:
            result["controls"][subject] = "passes, as it must" if caught is None else "WRONGLY REFUSED"
            result["violations"] += [] if caught is None else [f"control '{subject}' was refused"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
