"""A layout of packaging/quickstart, read as docker compose and the Dockerfile read it: for each service its environment and its
volumes. Whatever one of the files says of another is held against it. Nothing is started here."""

import pathlib
import re
import shutil
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "packaging/quickstart"
# What a service says here; anything else would be something that the processes of the tests do not have.
KEYS = {"image", "build", "user", "env_file", "volumes", "ports", "network_mode"}
KEYS |= {"read_only", "cap_drop", "security_opt", "restart", "stop_grace_period"}


def variables(path):
    """The lines NAME=VALUE of an env_file, which are the same to compose, podman and a shell."""
    found = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals and re.fullmatch(r"[A-Z][A-Z0-9_]*", name), f"{path}: {line!r} is not NAME=VALUE"
            assert not re.search(r"""["'$\s]""", value), f"{path}: {name} would be read in several ways"
            assert name not in found, f"{path}: {name} is there twice"
            found[name] = value
    return found


def image():
    """The environment and the volumes of the image, and who runs there."""
    text = re.sub(r"\\\n", "", (QUICKSTART / "Dockerfile").read_text())
    last = text[text.index("\nFROM scratch\n") :]
    environment = dict(pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", last, re.M) for pair in line.split())
    volumes = re.findall(r'"(.*?)"', re.search(r"^VOLUME (.*)$", last, re.M)[1])
    user = re.search(r"^USER (.*)$", last, re.M)[1]
    assert user.split(":")[0] not in ("0", "root"), "the image runs as root"
    return environment, volumes, user


class Service:
    """One service: `environment` as its container gets it, `volumes` from a path there to a directory here."""

    def __init__(self, directory, said, names):
        assert set(said) <= KEYS, f"{directory}: {set(said) - KEYS} is more than the tests run"

        def filled(text):
            # ${NAME} and ${NAME:?what to do where it is not set}
            return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: names[found[1]], text)

        base, image_volumes, _ = image()
        self.user = filled(said["user"])
        self.environment = dict(base)
        self.env_files = [directory / filled(path) for path in said["env_file"]]
        for path in self.env_files:
            self.environment.update(variables(path))
        self.volumes = {}
        for volume in said["volumes"]:
            here, there = filled(volume).split(":")
            assert (directory / here).is_dir(), f"{directory / here}: prepare has not made it"
            self.volumes[there] = directory / here
        assert set(self.volumes) == set(image_volumes), "the volumes are not those of the image"
        port = self.one("IROH_UDP_PORT")
        assert said.get("ports", [f"{port}:{port}/udp"]) == [f"{port}:{port}/udp"], f"the port that is published is not {port}"
        self.name, self.port = self.one("NODE_ID"), port
        for name, value in self._places():
            for path in re.findall(r"(?:^|=|unix://)(/\w+)", value):
                assert path in self.volumes, f"{name}: {path} is no volume"

    def one(self, name):
        """The value of a setting, by our name or peat-node's."""
        found = [self.environment[prefix + name] for prefix in ("PEAT_BLOBD_", "PEAT_NODE_") if prefix + name in self.environment]
        assert len(found) == 1, f"{name} is there {len(found)} times"
        return found[0]

    def outside(self):
        """The environment for a process that is in no container: where the volumes are mounted stands where they come from."""
        volume = re.compile(r"(^|=|unix://)(/\w+)")

        def here(found):
            return found[1] + str(self.volumes[found[2]])

        return self.environment | {name: volume.sub(here, value) for name, value in self._places()}

    def _places(self):
        """The variables that may have paths in them. A key may look as if it had."""
        return [(name, value) for name, value in self.environment.items() if not name.endswith("_SHARED_KEY")]


class Layout:
    """A copy of a layout in a directory of its own, prepared."""

    def __init__(self, name, work, programs, key=None):
        self.directory = work / name
        shutil.copytree(QUICKSTART / name, self.directory, ignore=shutil.ignore_patterns("generated", "volumes", ".env"))
        if key is not None:
            (self.directory / "generated").mkdir(0o700)
            shutil.copy(key, self.directory / "generated/formation.env")
        self.programs = programs
        self.ids = self.prepare()
        self.said = yaml.safe_load((self.directory / "compose.yaml").read_text())
        context = (QUICKSTART / name / next(iter(self.said["services"].values()))["build"]["context"]).resolve()
        assert context == ROOT, f"{name}: the image is built in {context}"

    def prepare(self):
        """Calls `prepare`, and returns the endpoint ids that it prints, by the names of the nodes."""
        command = [QUICKSTART / "prepare", self.directory]
        environment = {"PEAT_BLOBCTL": str(self.programs / "peat-blobctl"), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return dict(line.split(" is ") for line in done.stdout.splitlines())

    def services(self, names=None):
        """Its services, where `names` is what the shell has set beside what `.env` has."""
        names = {**variables(self.directory / ".env"), **(names or {})}
        return {name: Service(self.directory, said, names) for name, said in self.said["services"].items()}

    def addresses(self):
        """The host of each node, as `nodes` has it."""
        lines = (line.split() for line in (self.directory / "nodes").read_text().splitlines())
        return {words[0]: words[1].rsplit(":", 1)[0] for words in lines if words and words[0] != "#"}
