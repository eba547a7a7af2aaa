"""Two daemons for clients that are not our own: alpha, which sends, and bravo, which delivers. alpha's API is on a Unix socket
and on TCP; bravo's is on TCP within mutual TLS, where openssl can make certificates. Nothing here speaks the API."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

DEADLINE = 120
BINARIES = pathlib.Path(os.environ.get("PEAT_BLOB_BIN_DIR", "target/release")).resolve()
PROTO = pathlib.Path(__file__).resolve().parents[2] / "crates/peat-blobapi/proto"


def until(what, condition):
    """Waits until the condition gives something, and returns it."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.05)
    return found


class Daemon:
    """A daemon that has said where it serves."""

    def __init__(self, work, name, settings):
        self.data = work / name
        self.manager = manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(str(work / f"{name}.manager"))
        manager.settimeout(DEADLINE)
        config = work / f"{name}.toml"
        config.write_text(settings + "log = 'warn'\n")
        environment = {
            "PEAT_BLOBD_CONFIG": str(config),
            "PEAT_BLOBD_DATA_DIR": str(self.data),
            "PEAT_BLOBD_IROH_LISTEN": "127.0.0.1:0",
            "NOTIFY_SOCKET": str(work / f"{name}.manager"),
        }
        self.process = subprocess.Popen([BINARIES / "peat-blobd"], env=environment)
        told = ""
        while "READY=1" not in told:
            told = manager.recv(4096).decode()
        self.tcp = told.rsplit("tcp://", 1)[1].split()[0]


class Fleet:
    """A formation in a temporary directory, and its two daemons; all goes in the end."""

    def __enter__(self):
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.daemons = []
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        self._ctl("keygen", self.work / "formation")
        for name in ("alpha", "bravo"):
            self._ctl("enroll", "--formation", self.work / "formation", "--data", self.work / name, "--name", name)
        self.outbox, self.inbox = self.work / "outbox", self.work / "inbox"
        self.outbox.mkdir()
        listen = f"listen = ['unix://{self.work}/alpha/api.sock', 'tcp://127.0.0.1:0']\n"
        self.alpha = self._daemon("alpha", listen + f"outbox = ['out={self.outbox}']\n")
        self.has_tls = shutil.which("openssl") is not None
        tls = self._certificates() if self.has_tls else ""
        listen = f"listen = ['unix://{self.work}/bravo/api.sock', 'tcp://127.0.0.1:0']\n"
        self.bravo = self._daemon("bravo", listen + f"inbox = '{self.inbox}'\n" + tls)
        node = subprocess.run(self._at("alpha", "--output", "json", "status"), check=True, capture_output=True, text=True)
        node = json.loads(node.stdout)
        address = next(address for address in node["addresses"] if address.startswith("127."))
        subprocess.run(self._at("bravo", "connect", f"{node['endpoint_id']}@{address}"), check=True, stdout=subprocess.DEVNULL)
        self.socket = self.work / "alpha/api.sock"

    def _at(self, name, *arguments):
        return [BINARIES / "peat-blobctl", "--daemon", f"unix://{self.work}/{name}/api.sock", *arguments]

    def _ctl(self, *arguments):
        subprocess.run([BINARIES / "peat-blobctl", *arguments], check=True, stdout=subprocess.DEVNULL)

    def _daemon(self, name, settings):
        daemon = Daemon(self.work, name, settings)
        self.daemons.append(daemon)
        return daemon

    def _certificates(self):
        """An authority, and a certificate of it for the daemon and one for a client."""
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509", "-days", "1"]
        by_ca = ["-CA", "ca.cert", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:false"]
        for name, extra in (
            ("ca", []),
            ("daemon", [*by_ca, "-addext", "subjectAltName=IP:127.0.0.1"]),
            ("client", by_ca),
        ):
            command = ["openssl", "req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.cert", *extra]
            subprocess.run(command, cwd=self.work, check=True, capture_output=True)
        at = self.work
        return f"tls_cert = '{at}/daemon.cert'\ntls_key = '{at}/daemon.key'\ntls_client_ca = '{at}/ca.cert'\n"

    def __exit__(self, *_):
        for daemon in self.daemons:
            daemon.process.terminate()
        codes = [daemon.process.wait(DEADLINE) for daemon in self.daemons]
        shutil.rmtree(self.work)
        assert all(code == 0 for code in codes), f"the daemons ended with {codes}"
