"""The last stage of the Dockerfile, built by podman without a network, and a container of it as compose.yaml says."""

import os
import re
import shutil
import subprocess

from layout import QUICKSTART, ROOT
from node import DEADLINE, until

NAME = "peat-blob:local"


def programs_of(directory, programs):
    """What stands for the Dockerfile's first stage: the programs, and the libraries that those that are not static want."""
    binaries = directory / "rootfs/usr/bin"
    binaries.mkdir(parents=True)
    for volume in ("data", "inbox", "outbox"):
        (directory / "volumes" / volume).mkdir(parents=True)
    for name in ("peat-blobd", "peat-blobctl"):
        shutil.copy(programs / name, binaries / name)
        subprocess.run(["strip", binaries / name], check=False, capture_output=True)
        said = subprocess.run(["ldd", programs / name], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", said):
            copy = directory / "rootfs" / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    return directory


class Podman:
    """Its images and containers lie in a directory of their own, and go with it."""

    def __init__(self, work):
        self.flags = ["--root", str(work / "podman"), "--runroot", str(work / "podman.run"), "--storage-driver", "vfs"]
        # Nothing is asked of systemd or a session.
        self.flags += ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        # crun wants other control groups than some machines have.
        self.flags += ["--runtime", "runc"] if shutil.which("runc") else []
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(work), "TMPDIR": str(work)}

    def run(self, *arguments):
        command = ["podman", *self.flags, *map(str, arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=DEADLINE)

    def do(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, f"podman {arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def build(self, context):
        # Without the format the image would have no HEALTHCHECK, and without the context the first stage would be built.
        how = ["--format", "docker", "--isolation", "chroot", "--network", "host", "--pull-never"]
        return self.run("build", *how, "--build-context", f"programs={context}", "--file", QUICKSTART / "Dockerfile", "--tag", NAME, ROOT)


def refused(done):
    """What kept podman from doing anything of the kind here, if that is why it failed."""
    words = ("operation not permitted", "user namespace", "unknown flag", "cgroup", "mount proc")
    lines = done.stderr.splitlines() if done.returncode != 0 else []
    return next((line for line in lines if any(word in line.lower() for word in words)), None)


def runs(service, programs, work, say):
    """Builds and runs it. Returns why not, where podman cannot do such a thing here."""
    if os.geteuid() != 0 or shutil.which("podman") is None:
        return "it wants podman, and root"
    podman = Podman(work)
    built = podman.build(programs_of(work / "programs", programs))
    if why := refused(built):
        return f"podman cannot build here: {why}"
    assert built.returncode == 0, built.stdout + built.stderr
    files = [value for path in service.env_files for value in ("--env-file", path)]
    volumes = [value for there, here in service.volumes.items() for value in ("--volume", f"{here}:{there}")]
    # As compose.yaml says, and nothing beyond what a container in a container may do: no network, no raised limits, no timers.
    limits = ["--user", service.user, "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    limits += ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--health-interval", "disable"]
    started = podman.run("run", "--detach", "--name", "node", *limits, *files, *volumes, NAME)
    try:
        if why := refused(started):
            return f"podman cannot run a container here: {why}"
        assert started.returncode == 0, started.stderr
        until("the container is healthy", lambda: podman.run("healthcheck", "run", "node").returncode == 0)
        (service.volumes["/outbox"] / "orders.txt").write_bytes(b"orders of the day\n")
        until("the file is sent", lambda: "no targets" in podman.do("exec", "node", "/usr/bin/peat-blobctl", "ls"))
        podman.do("stop", "--time", "30", "node")
        code = podman.do("container", "inspect", "node", "--format", "{{.State.ExitCode}}")
        assert code == "0", f"the container ended with {code}: {podman.run('logs', 'node').stderr}"
        owners = {path.stat().st_uid for path in service.volumes["/data"].rglob("*")}
        assert owners == {int(service.user.split(":")[0])}, f"the data belong to {owners}"
    finally:
        podman.run("rm", "--force", "node")
    say("a container of the image's last stage: healthy, not root, on a file system that is only read")
    return None
