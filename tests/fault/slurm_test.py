# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 1200 RUN_SERIAL ON
"""tenon-launch as the payload of a batch job: Slurm signals it before the time limit, and loses a node under it; each time
it starts the job again, which goes on by itself, and the end has the bits of an undisturbed run.

A Slurm of its own, with two nodes on this host (Debian: slurm-wlm, munge). Needs the super-user: munge asks for it."""
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

build = os.path.abspath(sys.argv[1])
programs = os.path.join(build, "examples")
launch, train = os.path.join(programs, "tenon-launch"), os.path.join(programs, "train_gpt_mpi")
environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
missing = [p for p in ("slurmctld", "slurmd", "sbatch", "munged", "mpirun") if not shutil.which(p, path=environment["PATH"])]
if missing or os.geteuid() != 0 or not os.path.exists(train):
    print("skipped: needs the super-user, train_gpt_mpi and " + ", ".join(missing or ["Slurm"]))
    sys.exit(77)
work = tempfile.mkdtemp(prefix="tenon-slurm-")
host = socket.gethostname().split(".")[0]
daemons = []


def run(*command):
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def start(*command):
    with open(os.path.join(work, f"{os.path.basename(command[0])}-{len(daemons)}.log"), "w") as log:
        daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return daemons[-1]


def node(name):
    os.makedirs(os.path.join(work, name), exist_ok=True)
    return start("slurmd", "-D", "-N", name)


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            said = "\n".join(open(f).read()[-2000:] for f in glob.glob(os.path.join(work, "*.out")))
            raise AssertionError(f"{what}: not within {seconds} s\n{run('squeue', '-a')}\n{said}")
        time.sleep(0.1)


def job_script(name, steps, limit):
    script = os.path.join(work, name + ".sh")
    with open(script, "w") as f:
        f.write(f"""#!/bin/bash
#SBATCH --nodes=1 --ntasks=2 --requeue --time={limit} --signal=B:USR1@45 --open-mode=append
#SBATCH --output={work}/{name}.out --error={work}/{name}.err
exec {launch} --ranks 2 -- {train} --model gpt-tiny --text {work}/text.txt --steps {steps} --seed 3 --json \\
  --mesh data=2 --out {work}/{name} --checkpoint-every 20
""")
    return script


def steps_of(name):
    try:
        with open(os.path.join(work, name, "metrics.jsonl")) as f:
            return sum(1 for _ in f)
    except OSError:
        return 0


def text_of(name):
    try:
        with open(os.path.join(work, name)) as f:
            return f.read()
    except OSError:
        return ""


def digest(output):
    return json.loads(output.strip().splitlines()[-1])["parameters_sha256"]


def undisturbed(steps):
    return digest(run(os.path.join(programs, "train_gpt"), "--model", "gpt-tiny", "--text", work + "/text.txt", "--steps",
                      str(steps), "--seed", "3", "--json"))


def finished(name, steps):
    def ended():
        # Slurm waits two minutes with a job that it starts again; we do not.
        subprocess.run(["scontrol", "update", "jobname=" + name + ".sh", "starttime=now"], env=environment,
                       capture_output=True)
        time.sleep(1)
        return "parameters_sha256" in text_of(name + ".out")

    wait_for(ended, 500, f"the end of {name}")
    assert digest(text_of(name + ".out")) == undisturbed(steps), text_of(name + ".err")


try:
    with open(os.path.join(work, "text.txt"), "w") as f:
        f.write("The tenon fits the mortise. " * 400)
    conf = os.path.join(work, "slurm.conf")
    with open(conf, "w") as f:
        f.write(f"""ClusterName=tenon
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={work}/munge/socket
SlurmctldPort=26817
StateSaveLocation={work}
SlurmdSpoolDir={work}/%n
SlurmctldPidFile={work}/slurmctld.pid
SlurmdPidFile={work}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=5
ReturnToService=2
MpiDefault=none
RequeueExit=75
SchedulerParameters=sched_interval=1,requeue_delay=1
NodeName=n1 NodeHostname={host} Port=27001 CPUs=2
NodeName=n2 NodeHostname={host} Port=27002 CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES State=UP
""")
    environment["SLURM_CONF"] = conf
    munge = os.path.join(work, "munge")
    os.makedirs(munge, mode=0o755)
    os.chmod(work, 0o755)
    with open(os.path.join(munge, "key"), "wb") as f:
        f.write(os.urandom(1024))
    os.chmod(os.path.join(munge, "key"), 0o400)
    start("munged", "--foreground", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={munge}/pid",
          f"--log-file={munge}/log", f"--seed-file={munge}/seed")
    wait_for(lambda: os.path.exists(munge + "/socket"), 10, "munge")
    start("slurmctld", "-D", "-c")
    nodes = {name: node(name) for name in ("n1", "n2")}
    wait_for(lambda: subprocess.run(["sinfo", "-h", "-o", "%D %t"], env=environment, capture_output=True,
                                    text=True).stdout.strip() == "2 idle", 30, "two nodes")

    # A minute less 45 seconds: signalled in the midst of the steps.
    steps = 6000
    run("sbatch", job_script("deadline", steps, "00:01:00"))
    wait_for(lambda: "asked to stop" in text_of("deadline.err"), 120, "the signal before the deadline")
    finished("deadline", steps)
    print("signalled before its time limit, started again by Slurm, one hash")

    steps = 1000
    run("sbatch", job_script("lost", steps, "00:10:00"))
    wait_for(lambda: steps_of("lost") > 100, 60, "100 steps")
    job, name = run("squeue", "-h", "-o", "%A %N").split()
    # A node is gone, with all that ran there: first what would tell Slurm how the job ended.
    nodes[name].send_signal(signal.SIGKILL)
    subprocess.run(["pkill", "-9", "-f", rf"slurmstepd: \[{job}\."], check=False)
    subprocess.run(["pkill", "-9", "-f", work + "/lost"], check=False)
    finished("lost", steps)
    assert text_of("lost.err").count("continues after step") > 1, text_of("lost.err")
    print(f"lost {name}, started on the other, one hash")
finally:
    subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], env=environment, capture_output=True)
    time.sleep(1)
    for d in reversed(daemons):
        d.terminate()
    for d in daemons:
        try:
            d.wait(10)
        except subprocess.TimeoutExpired:
            d.kill()
    subprocess.run(["pkill", "-9", "-f", work], check=False)
    shutil.rmtree(work, ignore_errors=True)
