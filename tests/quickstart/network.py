"""Hosts in networks of their own, joined by a router: network namespaces and veth pairs. What is no unicast does not pass."""

import os
import pathlib
import re
import subprocess

PREFIX = "pbq-"


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def missing():
    """Why there can be no such network here; nothing where there can."""
    if os.geteuid() != 0:
        return "wants root"
    name = f"{PREFIX}{os.getpid()}-try"
    try:
        ip("netns", "add", name)
        try:
            ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
        finally:
            ip("netns", "delete", name)
    except (AssertionError, OSError) as error:
        return f"no network namespaces with veth: {error}"
    return None


def sweep():
    """Removes what tests left behind that were killed: namespaces of processes that are gone."""
    for path in pathlib.Path("/run/netns").glob(f"{PREFIX}*"):
        owner = re.fullmatch(rf"{PREFIX}(\d+)-\w[\w-]*", path.name)
        if owner and not pathlib.Path("/proc", owner[1]).exists():
            ip("netns", "delete", path.name)


class Network:
    """A host for each address, every one in a network of 24 bits of its own; the router has `.1` in each."""

    def __init__(self, addresses):
        self.addresses = addresses
        self.namespaces = {name: f"{PREFIX}{os.getpid()}-{name}" for name in [*addresses, "router"]}

    def __enter__(self):
        sweep()
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self):
        for namespace in self.namespaces.values():
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        router = self.namespaces["router"]
        for index, (name, address) in enumerate(self.addresses.items()):
            host, gateway, port = self.namespaces[name], address.rsplit(".", 1)[0] + ".1", f"to{index}"
            ip("-n", router, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            for namespace, device, own in ((router, port, gateway), (host, "eth0", address)):
                ip("-n", namespace, "address", "add", f"{own}/24", "dev", device)
                ip("-n", namespace, "link", "set", device, "up")
            ip("-n", host, "route", "add", "default", "via", gateway)
        ip("netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def prefix(self, name):
        """What runs a program in a host: it becomes the program."""
        return ["ip", "netns", "exec", self.namespaces[name]]

    def __exit__(self, *_):
        for namespace in self.namespaces.values():
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
