#!/usr/bin/env python3
"""The launch scripts against fake programs: exit codes, signals, requeues and chains of jobs.

mpirun is the real one; the ranks are a shell script, so no build is needed. srun, sbatch and scontrol are
stand-ins that record how they were called.
"""
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRAPPER = ROOT / "launch/mpirun.sh"
SBATCH = ROOT / "launch/slurm/train.sbatch"
CHAIN = ROOT / "launch/slurm/chain.sh"

# A rank: tells that it is ready, then does what its first argument says.
RANK = r"""#!/usr/bin/env bash
[ "$1" = train ] && shift
told=
leave() {
  touch "$DIR/leaves.${OMPI_COMM_WORLD_RANK:-0}"
  exit "${LEAVES_WITH:-85}"
}
on_usr1() {
  [ "$MODE" = save-slowly ] && [ ! -e "$DIR/second" ] || leave
  told=1
}
trap on_usr1 USR1
trap leave TERM
touch "$DIR/ready.${OMPI_COMM_WORLD_RANK:-0}"
case $1 in
  exit) exit "$2" ;;
  die) [ "${OMPI_COMM_WORLD_RANK:-0}" = 1 ] && kill -KILL $$ ;;
esac
# No $(seq 800): mpirun signals the whole process group, and a seq that is ended gives a loop that is over.
for ((i = 0; i < 800; ++i)); do
  sleep 0.05
  [ -z "$told" ] || touch "$DIR/went-on.${OMPI_COMM_WORLD_RANK:-0}"
done
exit 0
"""


class Scripts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.rank = self.write("rank", RANK)
        self.env = dict(os.environ, DIR=str(self.dir), MODE="", PATH=f"{self.dir}:{os.environ['PATH']}")
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "SLURM_RESTART_COUNT"):
            self.env.pop(name, None)

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def start(self, *command, **env):
        process = subprocess.Popen(
            [str(part) for part in command], env={**self.env, **env}, cwd=self.dir, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, *names):
        give_up = time.monotonic() + 120
        while not all((self.dir / name).exists() for name in names):
            self.assertLess(time.monotonic(), give_up, f"never came: {names}")
            time.sleep(0.02)

    def tell_twice(self, job, second_is_usr1=False):
        """Each signal is sent once: that it arrives is the script's work, also where mpirun drops it while it still counts
        its ranks in. A rank that saves slowly leaves at a SIGTERM, or at a SIGUSR1 once the file "second" is there: where
        the second signal is a SIGUSR1 too, this makes it, and none that is sent again, the second."""
        self.wait_for("ready.0")
        job.send_signal(signal.SIGTERM)
        self.wait_for("went-on.0")
        if second_is_usr1:
            (self.dir / "second").touch()
        job.send_signal(signal.SIGTERM)

    def finish(self, process):
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def ranks(self, num_ranks, *arguments, **env):
        return self.start("bash", WRAPPER, "-n", num_ranks, "--oversubscribe", self.rank, *arguments, **env)


class MpirunWrapper(Scripts):
    def test_passes_the_programs_exit_codes_through(self):
        for code in (0, 64, 65, 70, 74, 75, 85):
            self.assertEqual(self.finish(self.ranks(2, "exit", code))[0], code)

    def test_a_killed_rank_is_75(self):
        code, output = self.finish(self.ranks(3, "die"))
        self.assertEqual(code, 75, output)
        self.assertIn("a rank was killed", output)

    def test_each_stop_signal_reaches_every_rank_as_sigusr1(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            for old in self.dir.glob("*.[0-9]"):
                old.unlink()
            job = self.ranks(2, "wait")
            self.wait_for("ready.0", "ready.1")
            job.send_signal(number)
            self.wait_for("leaves.0", "leaves.1")
            code, output = self.finish(job)
            self.assertEqual(code, 85, f"{number}: {output}")

    def test_a_second_signal_reaches_the_ranks_too(self):
        # mpirun kills 1 s after its SIGTERM: too soon for a rank on a loaded machine.
        job = self.ranks(2, "wait", MODE="save-slowly", LEAVES_WITH="1", OMPI_MCA_odls_base_sigkill_timeout="10")
        self.wait_for("ready.1")
        self.tell_twice(job)
        self.wait_for("leaves.0")
        self.assertEqual(self.finish(job)[0], 143)

    def test_ranks_that_were_told_twice_to_leave_are_not_75(self):
        for code in (138, 143):
            for old in self.dir.glob("*.[0-9]"):
                old.unlink()
            job = self.ranks(1, "wait", MODE="save-slowly", LEAVES_WITH=str(code))
            self.tell_twice(job)
            self.assertEqual(self.finish(job)[0], 143)

    def test_a_stop_that_comes_before_the_program_can_answer_has_nothing_to_save(self):
        mpirun = self.write("mpirun", '#!/usr/bin/env bash\ntouch "$DIR/ready.0"\nexec sleep 30\n')
        job = self.start("bash", WRAPPER, "-n", 1, "true", LOCKSTEP_MPIRUN=mpirun)
        self.wait_for("ready.0")
        time.sleep(0.2)  # the script has become `sleep`, which USR1 kills as it would a program that is being loaded
        job.send_signal(signal.SIGUSR1)
        code, output = self.finish(job)
        self.assertEqual(code, 85, output)
        self.assertIn("nothing new to save", output)

    def test_a_signal_that_mpirun_loses_is_sent_again(self):
        mpirun = self.write("mpirun", "#!/usr/bin/env bash\ntrap 'trap \"exit 85\" USR1' USR1\n"
                            'touch "$DIR/ready.0"\nfor ((i = 0; i < 400; ++i)); do sleep 0.05; done\n')
        job = self.start("bash", WRAPPER, "-n", 1, "true", LOCKSTEP_MPIRUN=mpirun)
        self.wait_for("ready.0")
        job.send_signal(signal.SIGUSR1)
        self.assertEqual(self.finish(job), (85, ""))

    def test_a_signal_before_mpirun_runs_is_not_lost(self):
        # The script asks `id` before it starts mpirun; this one waits until the signal was sent.
        self.write("id", '#!/usr/bin/env bash\ntouch "$DIR/asked"\nuntil [ -e "$DIR/sent" ]; do sleep 0.02; done\necho 1\n')
        mpirun = self.write("mpirun", '#!/usr/bin/env bash\ntouch "$DIR/started"; for _ in $(seq 200); do sleep 0.05; done\n')
        job = self.start("bash", WRAPPER, "-n", 1, "true", LOCKSTEP_MPIRUN=mpirun)
        self.wait_for("asked")
        job.send_signal(signal.SIGTERM)
        (self.dir / "sent").touch()
        code, output = self.finish(job)
        self.assertEqual(code, 85, output)
        self.assertFalse((self.dir / "started").exists())

    def test_reports_a_missing_program(self):
        code, output = self.finish(self.start("bash", WRAPPER, "-n", 1, self.dir / "absent"))
        self.assertNotEqual(code, 0)
        self.assertIn("absent", output)


class SlurmTemplate(Scripts):
    def setUp(self):
        super().setUp()
        self.write("srun", '#!/usr/bin/env bash\necho "$*" >"$DIR/srun.args"; shift; exec "$@"\n')
        self.write("scontrol", '#!/usr/bin/env bash\necho "$*" >>"$DIR/scontrol.args"\n')
        self.env.update(LOCKSTEP=self.rank, SLURM_JOB_ID="42", SLURM_SUBMIT_DIR=str(ROOT))

    def job(self, *arguments, **env):
        return self.start("bash", SBATCH, *arguments, **env)

    def requeues(self):
        path = self.dir / "scontrol.args"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def test_starts_the_ranks_by_pmix(self):
        self.assertEqual(self.finish(self.job("exit", 0))[0], 0)
        self.assertTrue((self.dir / "srun.args").read_text().startswith("--mpi=pmix "))
        self.assertEqual(self.requeues(), [])

    def test_the_end_of_the_time_slice_is_a_checkpoint_and_a_requeue(self):
        for number in (signal.SIGUSR1, signal.SIGTERM):
            for old in self.dir.glob("*.[0-9]"):
                old.unlink()
            (self.dir / "scontrol.args").unlink(missing_ok=True)
            job = self.job("wait")
            self.wait_for("ready.0")
            job.send_signal(number)
            self.wait_for("leaves.0")
            self.assertEqual(self.finish(job)[0], 85)
            self.assertEqual(self.requeues(), ["requeue 42"])

    def test_a_lost_rank_is_requeued_so_many_times_in_a_row_and_no_more(self):
        run = ("--run-dir", self.dir / "a run")
        # A time slice that ended well starts the count again, however often the job was restarted.
        codes = [137, 137, 85, 137, 137, 137]
        for restarts, (code, requeued) in enumerate(zip(codes, [True, True, True, True, True, False])):
            (self.dir / "scontrol.args").unlink(missing_ok=True)
            found, output = self.finish(self.job("exit", code, *run, SLURM_RESTART_COUNT=str(restarts),
                                                 LOCKSTEP_MAX_FAILURES="2"))
            self.assertEqual((found, self.requeues()), (75 if code == 137 else 85, ["requeue 42"] if requeued else []), output)
        self.assertEqual((self.dir / "a run/failures").read_text(), "3\n")
        self.assertEqual(self.finish(self.job("exit", 0, f"--run-dir={self.dir}/a run"))[0], 0)
        self.assertFalse((self.dir / "a run/failures").exists())

    def test_a_job_that_is_told_twice_is_requeued_all_the_same(self):
        # Slurm sends USR1 before the end of the time slice and TERM at its end; neither is somebody's wish to abort.
        job = self.job("wait", MODE="save-slowly")
        self.tell_twice(job, second_is_usr1=True)
        self.assertEqual(self.finish(job)[0], 85)
        self.assertEqual(self.requeues(), ["requeue 42"])

    def test_only_the_first_start_begins_elsewhere(self):
        arguments = ("exit", 0, "--run-dir", "r", "--resume", "never", "--overwrite", "--take-over", "--resume=a b")
        self.finish(self.job(*arguments))
        self.assertTrue((self.dir / "srun.args").read_text().endswith("exit 0 --run-dir r --resume never --overwrite --take-over --resume=a b\n"))
        (self.dir / "r/checkpoints/gen-000001-step-0000000010").mkdir(parents=True)
        self.finish(self.job(*arguments, SLURM_RESTART_COUNT="1"))
        self.assertTrue((self.dir / "srun.args").read_text().endswith("exit 0 --run-dir r\n"))

    def test_fine_tuning_goes_on_as_its_own_run_once_it_has_a_checkpoint(self):
        tune = ("--resume", "other/gen-1", "--load", "params-only", "--allow-missing", "head.*", "--allow-unexpected=old.*")
        arguments = ("exit", 0, *tune, "--run-dir=a run", "--stop-after", 3)
        partial = self.dir / "a run/checkpoints/.gen-000001-step-0000000000.a0001.partial"
        partial.mkdir(parents=True)
        self.finish(self.job(*arguments, SLURM_RESTART_COUNT="1"))
        told = (self.dir / "srun.args").read_text()
        self.assertTrue(told.endswith(f"exit 0 {' '.join(tune)} --run-dir=a run --stop-after 3\n"), told)
        partial.rename(partial.parent / "gen-000001-step-0000000000")
        self.finish(self.job(*arguments, SLURM_RESTART_COUNT="2"))
        told = (self.dir / "srun.args").read_text()
        self.assertTrue(told.endswith("exit 0 --run-dir=a run --stop-after 3\n"), told)

    def test_errors_that_will_come_again_are_not_requeued(self):
        for code in (64, 65, 70, 74):
            self.assertEqual(self.finish(self.job("exit", code))[0], code)
        self.assertEqual(self.requeues(), [])

    def test_a_job_of_a_chain_does_not_requeue(self):
        self.assertEqual(self.finish(self.job("exit", 85, LOCKSTEP_REQUEUE="never"))[0], 85)
        self.assertEqual(self.requeues(), [])

    def test_runs_under_mpirun_when_told_to(self):
        self.write("mpirun", '#!/usr/bin/env bash\nexec "$@"\n')
        self.assertEqual(self.finish(self.job("exit", 85, LOCKSTEP_LAUNCHER="mpirun"))[0], 85)
        self.assertEqual(self.requeues(), ["requeue 42"])

    def test_refuses_an_unknown_launcher(self):
        self.assertEqual(self.finish(self.job("exit", 0, LOCKSTEP_LAUNCHER="ssh"))[0], 64)


class Chain(Scripts):
    def test_each_job_waits_for_the_one_before(self):
        self.write("sbatch", '#!/usr/bin/env bash\necho "$LOCKSTEP_REQUEUE $*" >>"$DIR/sbatch.args"\n'
                             'echo "$((100 + $(wc -l <"$DIR/sbatch.args")));cluster"\n')
        code, output = self.finish(self.start("bash", CHAIN, 3, "train.sbatch", "r.toml"))
        self.assertEqual((code, output.split()), (0, ["101", "102", "103"]))
        self.assertEqual((self.dir / "sbatch.args").read_text().split("\n")[:-1], [
            "never --parsable train.sbatch r.toml",
            "never --parsable --dependency=afterany:101 train.sbatch r.toml",
            "never --parsable --dependency=afterany:102 train.sbatch r.toml"])

    def test_refuses_a_count_that_is_none(self):
        for count in ("0", "x", "-1"):
            self.assertEqual(self.finish(self.start("bash", CHAIN, count, "train.sbatch"))[0], 64)


if __name__ == "__main__":
    unittest.main()
