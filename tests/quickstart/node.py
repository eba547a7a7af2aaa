"""A daemon with the environment of a service, and the questions that the tests ask of it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time

DEADLINE = 120


def until(what, condition):
    """Waits until the condition gives something, and returns it."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.05)
    return found


class Local(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(self.path))


class Node:
    """A daemon. Whoever starts it stops it: `prefix` puts both programs elsewhere, and must become them."""

    def __init__(self, service, programs, environment=None, prefix=()):
        self.name, self.volumes = service.name, service.volumes
        self.environment = environment if environment is not None else service.outside()
        self.environment.setdefault("PEAT_BLOBD_LOG", "warn")
        self.programs, self.prefix, self.process = programs, list(prefix), None

    def start(self):
        command = [*self.prefix, self.programs / "peat-blobd"]
        self.process = subprocess.Popen(command, env=self._all())

        def answers():
            assert self.process.poll() is None, f"{self.name} has ended with {self.process.returncode}"
            return self.run("status").returncode == 0

        until(f"{self.name} answers", answers)
        return self

    def stop(self):
        """Ends it as compose does. It ends well, or the test has failed."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE)
        self.process = None
        assert code == 0, f"{self.name} ended with {code}"

    def end(self):
        """Ends it whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def run(self, *arguments):
        command = [*self.prefix, self.programs / "peat-blobctl", *arguments]
        return subprocess.run(command, env=self._all(), capture_output=True)

    def ask(self, *arguments):
        """What a verb answers."""
        done = self.run("--output", "json", *arguments)
        assert done.returncode == 0, f"{self.name}: {arguments}: {done.stderr.decode()}"
        return json.loads(done.stdout)

    def figures(self):
        """What /metrics says."""
        connection = Local(self.volumes["/data"] / "api.sock")
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        return answer.read().decode()

    def doctor(self):
        """The exit code of `doctor`, and what it finds: for each check the least well of its findings."""
        done = self.run("--output", "json", "doctor")
        order = ["unknown", "well", "note", "problem"]
        found = {}
        for finding in json.loads(done.stdout)["findings"]:
            assert (finding["health"] == "problem") <= bool(finding["fix"]), f"no fix: {finding}"
            found[finding["check"]] = max(found.get(finding["check"], "unknown"), finding["health"], key=order.index)
        return done.returncode, found

    def write(self, name, content):
        """Puts a file into its outbox, as a user does."""
        (self.volumes["/outbox"] / name).write_bytes(content)

    def received(self, name, content):
        """Waits for a file in its inbox."""
        path = self.volumes["/inbox"] / name
        until(f"{name} in the inbox of {self.name}", path.exists)
        assert path.read_bytes() == content, f"{self.name} has other bytes of {name}"

    def distributions(self):
        return self.ask("ls")["distributions"]

    def completed(self, name, targets):
        """Waits until the distribution that has this file is completed, with a receipt of each of the targets."""

        def is_completed():
            statuses = [self.ask("status", found["distribution_id"], "--files") for found in self.distributions()]
            found = [status for status in statuses if name in [file["path"] for file in status.get("files", [])]]
            assert len(found) <= 1, f"{name} was sent {len(found)} times"
            return next((status for status in found if status["state"] == "completed"), None)

        status = until(f"{name} is completed at {self.name}", is_completed)
        signed = {target["name"]: target["receipt"] for target in status["targets"]}
        assert signed == dict.fromkeys(targets, True), f"{name}: receipts of {signed}"

    def _all(self):
        return {"PATH": os.environ["PATH"], **self.environment}
