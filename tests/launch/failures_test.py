"""Signals, lost ranks and bad input on the real program: a clear error, the right exit code, no hang, nothing lost."""
# Covers: train_command.cc, stop_signals.cc, checkpoint_keeper.cc, training_setup.cc
import gzip
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import time
import unittest

import runs

MPIRUN_SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "launch", "mpirun.sh")
LONG = ("--set", "train.steps=100000", "--set", "schedule.total_steps=8")


class Stops(runs.Case):
    def stop(self, ranks, number):
        recipe = self.recipe(runs.MLP)
        run = self.path("run")
        process = self.start(ranks, "train", recipe, "--run-dir", run, "--set", "checkpoint.every_steps=50", *LONG)
        self.wait_for(lambda: self.num_checkpoints(run) > 0, "a checkpoint")
        runs.kill(process.pid, number)
        self.assertEqual(process.wait(timeout=runs.TIMEOUT_S), 85)
        steps = max(int(name[-10:]) for name in os.listdir(os.path.join(run, "checkpoints")) if "step" in name)
        end = ("--set", f"train.steps={steps + 3}", "--set", "schedule.total_steps=8")
        resumed = self.train(3, recipe, "--run-dir", run, *end)
        self.assertEqual((resumed["first_step"], resumed["attempt"]), (steps, 2))
        self.assertEqual(resumed["state_digest"], self.train(1, recipe, *end)["state_digest"])

    def test_sigusr1_to_mpirun_saves_and_leaves_with_85(self):
        self.stop(2, signal.SIGUSR1)

    def test_sigterm_to_a_run_of_one(self):
        self.stop(0, signal.SIGTERM)

    def test_a_second_signal_leaves_at_once(self):
        # A step takes longer than the pause between the two, unless the machine stands still: then once more.
        for attempt in range(5):
            process = self.start(0, "train", self.recipe(runs.MLP), "--run-dir", self.path(f"run-{attempt}"), "--set",
                                 "model.hidden=[1024, 1024]", *LONG)
            self.wait_for_first_step(process)
            runs.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.005)
            runs.kill(process.pid, signal.SIGTERM)
            if process.wait(timeout=runs.TIMEOUT_S) == 128 + signal.SIGTERM:
                return
            self.assertEqual(process.returncode, 85)
        self.fail("it never left at the second signal")

    def wait_for_first_step(self, process):
        """Told to a person; from then on signals are handled."""
        line = ""
        while not line.startswith("step 1/"):
            line = process.stderr.readline()
            self.assertNotEqual(line, "", "the run ended before its first step")

    def test_a_killed_rank_is_named_and_the_script_says_try_again(self):
        recipe = self.recipe(runs.MLP)
        run = self.path("run")
        command = self.command(3, "train", recipe, "--run-dir", run, "--set", "checkpoint.every_steps=50", *LONG)
        self.assertEqual(command[0], "mpirun")
        process = self.start_command(["bash", MPIRUN_SCRIPT, *command[1:]])
        self.wait_for(lambda: self.num_checkpoints(run) > 0, "a checkpoint")
        (mpirun,) = runs.children_of(process.pid)
        runs.kill(runs.ranks_of(mpirun)[1])
        _, errors = process.communicate(timeout=runs.TIMEOUT_S)
        self.assertIn("rank 1 is gone", errors)
        self.assertEqual(process.returncode, 75, errors[-2000:])

    def test_a_stop_with_nowhere_to_save_is_not_one_to_go_on_from(self):
        report = self.path("report.json")
        process = self.start(2, "train", self.recipe(runs.MLP), "--report", report, "--set", "eval.every_epochs=0",
                             *LONG)
        self.wait_for_first_step(process)
        runs.kill(process.pid, signal.SIGUSR1)
        _, errors = process.communicate(timeout=runs.TIMEOUT_S)
        self.assertEqual(process.returncode, 64, errors[-2000:])
        self.assertIn("stopped without a checkpoint (no --run-dir)", errors)
        with open(report, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["status"], "stopped_by_signal")


class Metrics(runs.Case):
    def test_no_step_twice_and_none_lost_over_a_resume(self):
        recipe = self.recipe(runs.MLP)
        run = self.path("run")
        self.train(2, recipe, "--run-dir", run, "--stop-after", "5", "--set", "checkpoint.every_steps=2")
        with open(os.path.join(run, "metrics.jsonl"), "a", encoding="utf-8") as file:
            file.write('{"event":"step","num_steps":6,"loss":1}\n{"event":"st')
        self.train(3, recipe, "--run-dir", run)
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual([line["num_steps"] for line in lines if line["event"] == "step"], list(range(1, 9)))


class BadInput(runs.Case):
    def refused(self, ranks, arguments, code, *words, env=None, once=True):
        done = self.run_program(ranks, *arguments, env=env)
        self.assertEqual(done.returncode, code, done.stderr[-3000:])
        for word in words:
            self.assertIn(word, done.stderr)
        if once:
            tellers = re.findall(r" error r(\d+) ", done.stderr)
            self.assertLessEqual(len(set(tellers)), 1, "told by several ranks:\n" + done.stderr[-3000:])

    def test_recipe_mistakes(self):
        recipe = self.recipe(runs.MLP.replace("micro_batch_size", "micro_batchsize"))
        self.refused(2, ("train", recipe), 64, "micro_batchsize", "recipe.toml:13", "micro_batch_size")
        self.refused(0, ("train", self.path("absent.toml")), 64, "absent.toml")
        recipe = self.recipe(runs.MLP)
        self.refused(0, ("train", recipe, "--set", "train.seed=word"), 64, "train.seed")
        self.refused(2, ("train", recipe, "--sett", "a=b"), 64, "--sett")

    def test_places_that_can_not_be_written(self):
        recipe = self.recipe(runs.MLP)
        self.refused(2, ("train", recipe, "--run-dir", "/proc/run"), 74, "/proc/run")
        for path in (self.path("nowhere", "report.json"), self.folder):
            run = self.path("run")
            self.refused(2, ("train", recipe, "--run-dir", run, "--report", path), 74, "--report", path)
            self.assertFalse(os.path.exists(run), "told before anything was done")

    def test_a_report_that_is_only_readable_is_told_at_the_start(self):
        if os.geteuid() == 0:
            report = self.path("link.json")  # root may write anywhere, but no link is followed
            os.symlink(self.write("elsewhere.json", "{}"), report)
        else:
            report = self.write("report.json", "{}")
            os.chmod(report, 0o400)
        run = self.path("run")
        self.refused(0, ("train", self.recipe(runs.MLP), "--run-dir", run, "--report", report), 74, "--report", report)
        self.assertFalse(os.path.exists(run), "told before anything was done")

    def test_a_file_size_limit_is_an_error_with_a_path(self):
        limited = ["sh", "-c", "ulimit -f 16; exec " + shlex.join([runs.LOCKSTEP, "train", self.recipe(runs.MLP),
                   "--set", "model.hidden=[256,256]", "--run-dir", self.path("run")])]
        done = subprocess.run(limited, env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=runs.TIMEOUT_S)
        self.assertEqual(done.returncode, 74, done.stderr[-2000:])
        self.assertIn(self.path("run", "checkpoints"), done.stderr)

    def test_a_model_that_does_not_fit_is_told_without_a_stack_trace(self):
        done = self.run_program(2, "train", self.recipe(runs.MLP), "--set", "model.hidden=[100000000000]")
        self.assertEqual(done.returncode, 74, done.stderr[-2000:])
        self.assertIn("not enough memory", done.stderr)
        self.assertIn("making the model", done.stderr)
        self.assertNotIn("frame #", done.stderr)

    def test_more_ranks_than_micro_batches(self):
        recipe = self.recipe(runs.MLP)
        self.refused(3, ("train", recipe, "--set", "train.micro_batches_per_step=2"), 64, "3 ranks", "2 leaves")

    def test_data_set_smaller_than_a_global_batch(self):
        recipe = self.recipe(runs.MLP)
        self.refused(2, ("train", recipe, "--set", "train.micro_batch_size=100"), 64, "1200", "160")

    def test_data_files(self):
        recipe = self.recipe(runs.MLP)
        self.refused(2, ("train", recipe, "--set", "data.path=" + self.path("absent.csv")), 65, "absent.csv")
        bad = self.write("bad.csv", "a,b,label\n1,2,0\n1,word,1\n")
        self.refused(2, ("train", recipe, "--set", "data.path=" + bad), 65, "bad.csv:3", "word")
        short = self.write("short.csv", "a,b,label\n1,2,0\n1,2\n")
        self.refused(2, ("train", recipe, "--set", "data.path=" + short), 65, "short.csv:3")
        convnet = self.recipe(runs.CONVNET)
        images = bytes([0, 0, 8, 3, 0, 0, 0, 60, 0, 0, 0, 28, 0, 0, 0, 28]) + os.urandom(60 * 28 * 28)
        labels = bytes([0, 0, 8, 1, 0, 0, 0, 60]) + bytes(range(10)) * 6
        for part in ("train", "t10k"):
            for name, content in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
                pathlib.Path(self.path(name + "-ubyte.gz")).write_bytes(gzip.compress(content))
        self.train(2, convnet, "--set", "data.path=" + self.folder)
        whole = gzip.compress(images)
        for truncated in (gzip.compress(images[:-28]), whole[:len(whole) // 2]):
            pathlib.Path(self.path("train-images-idx3-ubyte.gz")).write_bytes(truncated)
            self.refused(2, ("train", convnet, "--set", "data.path=" + self.folder), 65, "train-images-idx3-ubyte.gz")
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            with gzip.open(self.path(name + "-ubyte.gz"), "wb") as file:
                file.write(b"\0\0\x09\x03" + bytes(12))
        self.refused(2, ("train", convnet, "--set", "data.path=" + self.folder), 65, "ubyte.gz", "magic")

    def test_run_directory_that_cannot_be_written(self):
        recipe = self.recipe(runs.MLP)
        self.refused(2, ("train", recipe, "--run-dir", self.write("a-file", "") + "/run"), 74, "a-file")

    def test_full_disk_leaves_the_earlier_checkpoint(self):
        # A disk of its own in name spaces of its own: as any user, where the system lets one make them.
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
        if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("this machine lets nobody mount a small disk")
        recipe = self.recipe(runs.MLP)
        small = self.path("small")
        os.mkdir(small)
        line = shlex.join(self.command(2, "train", recipe, "--run-dir", small + "/run", "--set",
                                     "checkpoint.every_steps=1", "--set", "checkpoint.keep_latest=100"))
        quoted, program = shlex.quote(small), shlex.quote(runs.LOCKSTEP)
        done = subprocess.run([*unshare, "sh", "-c",
                               f"mount -t tmpfs -o size=17500k none {quoted} && {line}; code=$?; "
                               f"ls {quoted}/run/checkpoints >&2; {program} ckpt verify "
                               f"{quoted}/run/checkpoints/$(ls {quoted}/run/checkpoints | tail -n 1) >&2 || exit 99; exit $code"],
                              env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=runs.TIMEOUT_S)
        self.assertEqual(done.returncode, 74, done.stderr[-3000:])
        self.assertIn("the one before it is untouched", done.stderr)

    def test_a_disk_that_is_full_for_a_while_costs_saves_and_not_the_run(self):
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
        if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("this machine lets nobody mount a disk")
        disk = self.path("disk")
        os.mkdir(disk)
        recipe = self.recipe(runs.MLP)
        train = shlex.join(self.command(2, "train", recipe, "--run-dir", disk + "/run", "--set", "checkpoint.every_steps=50",
                                      "--set", "checkpoint.mode=\"async\"", *LONG))
        # From full to usable again while it runs; then it is told to stop, and saves.
        script = f"""mount -t tmpfs -o size=40m none {disk} || exit 90
            {train} & mpirun=$!
            until ls {disk}/run/checkpoints/gen-* >/dev/null 2>&1; do sleep 0.05; done
            cat /dev/zero > {disk}/filler 2>/dev/null
            sleep 2; kill -0 $mpirun || exit 91
            size=$(stat -c %s {disk}/run/metrics.jsonl); rm {disk}/filler
            until [ $(stat -c %s {disk}/run/metrics.jsonl) -gt $size ]; do sleep 0.05; done
            kill -USR1 $mpirun; wait $mpirun; code=$?
            cp {disk}/run/metrics.jsonl {self.folder}; exit $code"""
        done = subprocess.run([*unshare, "sh", "-c", script], env=runs.environment(), capture_output=True, text=True,
                              timeout=runs.TIMEOUT_S)
        self.assertEqual(done.returncode, 85, done.stderr[-3000:])
        with open(self.path("metrics.jsonl"), encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        steps = [line["num_steps"] for line in lines if line["event"] == "step"]
        self.assertEqual(steps, list(range(1, len(steps) + 1)))
        saves = [line for line in lines if line["event"] == "save"]
        self.assertIn("failed", [line["status"] for line in saves])
        self.assertEqual((saves[-1]["status"], saves[-1]["saved_num_steps"]), ("durable", len(steps)))

    def test_a_read_only_disk_is_read_and_not_written(self):
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
        if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("this machine lets nobody mount a disk")
        recipe = self.recipe(runs.MLP)
        disk, other = self.path("disk"), self.path("a run \u00fc $HOME")
        os.mkdir(disk)
        train = shlex.join(self.command(2, "train", recipe, "--run-dir", disk + "/run", "--stop-after", "4"))
        again = shlex.join(self.command(2, "train", recipe, "--run-dir", disk + "/run"))
        checkpoint = disk + "/run/checkpoints/gen-000001-step-0000000004"
        verify = shlex.join([runs.LOCKSTEP, "ckpt", "verify", checkpoint])
        branch = shlex.join(self.command(2, "train", recipe, "--run-dir", other, "--resume", checkpoint))
        done = subprocess.run([*unshare, "sh", "-c",
                               f"mount -t tmpfs none {disk} && {train} && mount -o remount,ro {disk} || exit 90; "
                               f"{again}; [ $? = 74 ] || exit 91; {verify} || exit 92; {branch} || exit 93"],
                              env=runs.environment(), capture_output=True, text=True, timeout=runs.TIMEOUT_S)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertIn(disk + "/run", done.stderr)
        self.assertIn("Read-only file system", done.stderr)
        self.assertTrue(os.path.exists(os.path.join(other, "checkpoints")))

    def test_second_run_in_the_directory_of_a_living_one(self):
        recipe = self.recipe(runs.MLP)
        run = self.path("run")
        first = self.start(2, "train", recipe, "--run-dir", run, "--set", "checkpoint.every_steps=50", *LONG)
        self.wait_for(lambda: self.num_checkpoints(run) > 0, "a checkpoint")
        self.refused(2, ("train", recipe, "--run-dir", run), 64, "--take-over")
        self.assertIsNone(first.poll())

    def test_world_of_one_where_the_launcher_says_more(self):
        env = dict(runs.environment(), OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0")
        self.refused(0, ("train", self.recipe(runs.MLP)), 64, "OMPI_COMM_WORLD_SIZE", env=env, once=False)

    def test_ranks_that_are_started_differently(self):
        recipe = self.recipe(runs.MLP)
        table = self.path("another.csv")
        subprocess.run([runs.LOCKSTEP, "data", "make-tabular", "--rows", "200", "--seed", "2", table], check=True)
        for first, second, *words in (
                (("--set", "train.seed=3"), ("--set", "train.seed=4"), "train.seed = 3", "train.seed = 4"),
                ((), ("--set", "data.path=" + table), "data.identity"),
                (("--set", "checkpoint.every_steps=2"), (), "checkpoint.every_steps = 2", "checkpoint.every_steps = 0"),
                (("--set", "eval.every_epochs=1"), (), "eval.every_epochs = 1", "eval.every_epochs = 0"),
                (("--stop-after", "2"), ("--stop-after", "3"), "--stop-after 2", "--stop-after 3"),
                (("--run-dir", self.path("run")), (), "with --run-dir", "no --run-dir"),
                (("--resume", "never"), (), "--resume never", "--resume auto")):
            command = self.command(1, "train", recipe, *first) + [":"] + self.command(1, "train", recipe, *second)[1:]
            done = subprocess.run(command, env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, timeout=runs.TIMEOUT_S)
            self.assertEqual(done.returncode, 64, done.stderr[-3000:])
            for word in (*words, "rank 1"):
                self.assertIn(word, done.stderr)

    def test_ranks_of_two_builds(self):
        text = subprocess.run([runs.LOCKSTEP, "version"], check=True, capture_output=True, text=True).stdout
        build = bytes.fromhex(re.search(r"^build ([0-9a-f]+)$", text, re.MULTILINE).group(1))
        program = pathlib.Path(runs.LOCKSTEP).read_bytes()
        self.assertEqual(program.count(build), 1)
        other = pathlib.Path(self.path("lockstep"))
        other.write_bytes(program.replace(build, build[::-1]))
        other.chmod(0o755)
        recipe = self.recipe(runs.MLP)
        command = self.command(1, "train", recipe) + [":", "-n", "1", str(other), "train", recipe]
        done = subprocess.run(command, env=runs.environment(), capture_output=True, text=True, timeout=runs.TIMEOUT_S)
        self.assertEqual(done.returncode, 64, done.stderr[-3000:])
        for word in ("rank 1", build.hex(), build[::-1].hex()):
            self.assertIn(word, done.stderr)

    def test_checkpoint_of_another_recipe_or_model(self):
        recipe = self.recipe(runs.MLP)
        run = ("--run-dir", self.path("run"))
        self.train(2, recipe, *run, "--stop-after", "3")
        changed = ("--set", "optimizer.learning_rate=0.01")
        self.refused(2, ("train", recipe, *run, *changed), 64, "optimizer.learning_rate", "--allow-recipe-change")
        report = self.train(2, recipe, *run, *changed, "--allow-recipe-change", "optimizer.learning_rate")
        self.assertEqual(report["first_step"], 3)
        self.refused(2, ("train", recipe, *run, "--set", "model.hidden=[256, 128]", "--allow-recipe-change",
                         "model.hidden,optimizer.learning_rate"), 64, "1.weight")
        self.refused(2, ("train", recipe, *run, "--resume", "never"), 64, "--overwrite")
        self.train(2, recipe, *run, "--resume", "never", "--overwrite", "--stop-after", "1")

    def test_numbers_that_are_not_finite(self):
        recipe = self.recipe(runs.MLP)
        explode = ("--set", "optimizer.name=sgd", "--set", "optimizer.learning_rate=1e30", "--set",
                   "schedule.name=constant", "--set", "clip.max_norm=0")
        self.refused(2, ("train", recipe, *explode), 64, "micro-batch", "samples", "on_nonfinite")
        wide = ("--set", "train.micro_batch_size=12", "--set", "train.micro_batches_per_step=2")
        done = self.run_program(2, "train", recipe, *explode, *wide)
        named = re.search(r"its samples are ((?:\d+, )*\d+)", done.stderr)
        self.assertEqual(len(named.group(1).split(", ")), 12, done.stderr[-2000:])
        skipping = self.train(2, recipe, *explode, "--set", "train.on_nonfinite=skip")
        self.assertEqual(skipping["steps"], 8)
        self.assertEqual(skipping["skipped_steps"], list(range(skipping["skipped_steps"][0], 8)))
        self.refused(2, ("train", recipe, *explode, "--run-dir", self.path("run"), "--set",
                         "train.on_nonfinite=rollback"), 64, "came again")


if __name__ == "__main__":
    unittest.main(verbosity=2)
