# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300 RUN_SERIAL ON
"""Contract R under a supervisor: ranks are killed, stopped and resized at random moments, and the run ends in the bits of
an undisturbed one.

    launch_test.py BUILD [KILLS [SEED]]      the long version: 200 kills
"""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

build = sys.argv[1]
kills = int(sys.argv[2]) if len(sys.argv) > 2 else 5
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
programs = os.path.join(build, "examples")
launch, train = os.path.join(programs, "tenon-launch"), os.path.join(programs, "train_gpt_mpi")
if not shutil.which("mpirun") or not os.path.exists(train) or not os.path.exists(launch):
    print("skipped: needs mpirun, train_gpt_mpi and tenon-launch")
    sys.exit(77)
work = tempfile.mkdtemp(prefix="tenon-fault-")
text = os.path.join(work, "text.txt")
with open(text, "w") as f:
    f.write("The tenon fits the mortise. " * 400)
random.seed(seed)


def arguments(steps, mesh):
    return ["--model", "gpt-tiny", "--text", text, "--steps", str(steps), "--seed", "3", "--json"] + (
        ["--mesh", mesh] if mesh else [])


def digest(output):
    return json.loads(output.strip().splitlines()[-1])["parameters_sha256"]


def undisturbed(steps):
    done = subprocess.run([os.path.join(programs, "train_gpt")] + arguments(steps, None), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return digest(done.stdout)


def descendants(pid):
    """Processes below one, as (pid, name)."""
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            children = f.read().split()
    except OSError:
        return found
    for child in children:
        try:
            with open(f"/proc/{child}/comm") as f:
                found.append((int(child), f.read().strip()))
        except OSError:
            continue
        found += descendants(child)
    return found


class Supervised:
    """A run under tenon-launch, with what it says and how far it is."""

    def __init__(self, name, steps, mesh, flags):
        self.memory = os.path.join("/dev/shm" if os.path.isdir("/dev/shm") else work, "tenon-fault-" + name)
        shutil.rmtree(self.memory, ignore_errors=True)
        os.makedirs(self.memory)
        self.lines = []
        self.process = subprocess.Popen(
            [launch, "--memory", self.memory] + flags + ["--", train] + arguments(steps, mesh) +
            ["--out", os.path.join(work, name), "--checkpoint-every", "20"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append((time.monotonic(), line.rstrip()))

    def ranks(self):
        return [pid for pid, name in descendants(self.process.pid) if name.startswith("train_gpt_mpi")]

    def running(self):
        return self.process.poll() is None

    def step(self):
        for entry in os.listdir(self.memory):
            try:
                with open(os.path.join(self.memory, entry, "progress")) as f:
                    return int(f.read() or -1)
            except (OSError, ValueError):
                pass
        return -1

    def until(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while self.running() and not condition():
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"{what}: not within {seconds} s\n" + self.said())
            time.sleep(0.002)

    def said(self):
        return "\n".join(line for _, line in self.lines)

    def finish(self, expected, code=0):
        output = self.process.stdout.read()
        assert output.count("\n") == (1 if expected else 0), f"more than the last start's words: {output}"
        self.process.wait(120)
        self.reader.join()
        assert self.process.returncode == code, f"code {self.process.returncode}\n{self.said()}"
        assert not os.listdir(self.memory), "the folder in memory was left behind"
        os.rmdir(self.memory)
        if expected:
            assert digest(output) == expected, f"other bits: {digest(output)}, not {expected}\n{self.said()}"


def killed():
    """SIGKILL for any rank at any moment."""
    steps = max(300, 10 * kills)
    expected = undisturbed(steps)
    run = Supervised("killed", steps, "data=4", ["--ranks", "4", "--max-restarts", "100000", "--max-failures", "100000"])
    lost, recovery, done = [], [], 0
    while done < kills and run.running():
        if done % 4 == 3:  # at any moment: while it starts, loads, finishes
            time.sleep(random.uniform(0, 1.5))
        else:  # while it steps and saves
            goal = done * steps // kills
            run.until(lambda: run.step() >= goal, 60, f"step {goal}")
            time.sleep(random.uniform(0, 0.03))
        ranks = run.ranks()
        if not ranks:
            continue
        reached = run.step()
        try:
            os.kill(random.choice(ranks), signal.SIGKILL)
        except ProcessLookupError:
            continue
        done += 1
        at, seen = time.monotonic(), len(run.lines)
        # What it goes on from, as the next start says; and the next finished step.
        resumed = lambda: [re.search(r"continues after step (\d+)", line) for _, line in run.lines[seen:]]
        if done % 4 != 3 and reached > 0:  # the next kill waits
            run.until(lambda: any(resumed()), 60, "a restart")
            if run.running():
                lost.append(reached - int(next(m for m in resumed() if m).group(1)))
                first = reached + 1
                run.until(lambda: run.step() >= first, 60, "the next step")
                recovery.append(time.monotonic() - at)
    run.finish(expected)
    assert done >= min(kills, 3), f"only {done} kills: the test proves nothing"
    assert max(lost, default=0) <= 1, f"steps lost: {lost}"
    recovery.sort()
    print(f"{done} kills, one hash; steps lost: {max(lost, default=0)} at most; from a kill to the next step: median "
          f"{recovery[len(recovery) // 2]:.2f} s, longest {recovery[-1]:.2f} s")


def stuck(expected, steps):
    """A rank that stops without dying."""
    run = Supervised("stuck", steps, "data=4", ["--ranks", "4", "--stall-timeout", "8"])
    run.until(lambda: run.step() >= 5, 60, "step 5")
    os.kill(random.choice(run.ranks()), signal.SIGSTOP)
    run.finish(expected)
    assert "stuck after step" in run.said(), run.said()
    print("a stopped rank was noticed, one hash")


def resized(expected, steps):
    """Hosts go and come back."""
    hosts = os.path.join(work, "hosts")

    def slots(n):
        with open(hosts + ".new", "w") as f:
            f.write(f"localhost slots={n}\n")
        os.rename(hosts + ".new", hosts)

    slots(4)
    run = Supervised("resized", steps, "data={ranks}", ["--ranks", "4,2,1", "--hosts", hosts])
    for goal, n in ((5, 2), (100, 1), (200, 4)):
        run.until(lambda: run.step() >= goal, 60, f"step {goal}")
        slots(n)
        run.until(lambda: f"to {n} ranks" in run.said(), 30, f"{n} ranks")
    run.finish(expected)
    for change in ("shrinking from 4 to 2", "shrinking from 2 to 1", "growing from 1 to 4"):
        assert change in run.said(), run.said()
    print("4, 2, 1 and 4 ranks, one hash")


def asked_to_stop(expected, steps):
    """A signal before a deadline, and the same command again."""
    run = Supervised("asked", steps, "data=4", ["--ranks", "4"])
    run.until(lambda: run.step() >= 5, 60, "step 5")
    run.process.send_signal(signal.SIGUSR1)
    run.finish(None, 75)
    again = Supervised("asked", steps, "data=2", ["--ranks", "2"])
    again.finish(expected)
    assert re.search(r"continues after step", again.said()), again.said()
    print("saved itself when asked, went on with 2 ranks, one hash")


try:
    killed()
    if kills <= 20:
        count = 1500  # so many that none of these comes too late
        bits = undisturbed(count)
        stuck(bits, count)
        resized(bits, count)
        asked_to_stop(bits, count)
finally:
    shutil.rmtree(work, ignore_errors=True)
