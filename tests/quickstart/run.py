#!/usr/bin/env python3
"""The layouts of packaging/quickstart, run as processes: `peat-blobd` with the environment and the volumes that the compose files
say, files into outboxes, the same files out of inboxes, receipts. What differs from containers is said where it does.

    tests/quickstart/run.py [--left-out FILE]        PEAT_BLOB_BIN_DIR names the directory of the programs (target/release)

FILE gets a line for each thing that cannot be run here. It ends with 0 only if everything else held."""

import argparse
import contextlib
import os
import pathlib
import shutil
import tempfile

import container
import metrics
import network
from layout import Layout
from node import Node, until

PROGRAMS = pathlib.Path(os.environ.get("PEAT_BLOB_BIN_DIR", "target/release")).resolve()
ORDERS, MAP = b"orders of the day\n", os.urandom(3_000_000)


def say(text):
    print(f"quickstart: {text}", flush=True)


@contextlib.contextmanager
def running(nodes):
    """Starts nodes, and ends what is left of them."""
    try:
        for node in nodes.values():
            node.start()
        yield nodes
        for node in nodes.values():
            if node.process is not None:
                node.stop()
    finally:
        for node in nodes.values():
            node.end()


def on_loopback(services, hosts):
    """Nodes of one machine: each has an address of the loopback device for itself, where a container has a network."""
    addresses = {name: f"127.42.0.{index + 1}" for index, name in enumerate(hosts)}
    nodes = {}
    for name, service in services.items():
        environment = service.outside()
        for variable in ("PEAT_BLOBD_IROH_UDP_PORT", "PEAT_NODE_IROH_UDP_PORT"):
            environment.pop(variable, None)
        environment["PEAT_BLOBD_IROH_LISTEN"] = f"{addresses[name]}:{service.port}"
        for variable, value in environment.items():
            if variable.endswith("_PEERS"):
                for other, host in hosts.items():
                    value = value.replace(f"@{host}:", f"@{addresses[other]}:")
            if variable.endswith("_LISTEN"):
                value = value.replace("tcp://127.0.0.1:", f"tcp://{addresses[name]}:")
            environment[variable] = value
        nodes[name] = Node(service, PROGRAMS, environment)
    return nodes


def one_node(work):
    layout = Layout("one-node", work, PROGRAMS)
    with running(on_loopback(layout.services(), layout.addresses())) as nodes:
        alpha = nodes["alpha"]
        assert alpha.ask("status")["endpoint_id"] == layout.ids["alpha"], "it is not who its key says"
        alpha.write("orders.txt", ORDERS)
        sent = until("it is sent", alpha.distributions)
        assert [(found["state"], found["file_count"]) for found in sent] == [("no targets", 1)], sent
        copy = work / "orders.copy"
        alpha.ask("get", sent[0]["distribution_id"][:8], "orders.txt", "-o", str(copy))
        assert copy.read_bytes() == ORDERS
        assert [(box["sent"], box["waiting"]) for box in alpha.ask("status")["outboxes"]] == [(1, 0)]
        alpha.stop()
        alpha.start()
        alpha.write("second.txt", b"")
        until("the second is sent", lambda: len(alpha.distributions()) > 1)
        assert len(alpha.distributions()) == 2, "what was sent is sent again"
    assert layout.prepare() == layout.ids, "to prepare it again changes who it is"
    say("one node: takes a file, says that nobody is there for it, remembers it")


def two_nodes(work):
    layout = Layout("two-nodes", work, PROGRAMS)
    services = layout.services()
    assert set(services) == set(layout.addresses().values()), "services are reached by their names"
    with running(on_loopback(services, layout.addresses())) as nodes:
        alpha, bravo = nodes["alpha"], nodes["bravo"]
        alpha.write("orders.txt", ORDERS)
        bravo.received("orders.txt", ORDERS)
        alpha.completed("orders.txt", ["bravo"])
        bravo.write("map.bin", MAP)
        alpha.received("map.bin", MAP)
        bravo.completed("map.bin", ["alpha"])
        # On loopback alone nobody else reaches it, which is worth a note.
        checks = ["daemon", "clock", "disk", "ports", "mtu", "peers", "key", "clone"]
        healthy = {**dict.fromkeys(checks, "well"), "ports": "note"}
        until("all is well", lambda: alpha.doctor() == (0, healthy))
        bravo.stop()
        until("bravo is missed", lambda: alpha.doctor() == (1, {**healthy, "peers": "problem"}))
        code, found = bravo.doctor()
        assert (code, found["daemon"], found["clock"]) == (5, "problem", "unknown"), (code, found)
        alpha.write("later.txt", b"later")
        until("it is sent", lambda: len(alpha.distributions()) == 3)
        bravo.start()
        bravo.received("later.txt", b"later")
        alpha.completed("later.txt", ["bravo"])
        used, exported = metrics.check(alpha.figures())
        # What has happened is counted: alpha has sent two files and got one.
        lines = (
            "responding 1",
            "peers_connected 1",
            "files_delivered_total 1",
            "file_delivery_failures_total 0",
            "fetches_running 0",
            'distributions_by_state{state="completed"} 3',
            'distributions_by_state{state="partial"} 0',
            'outbox_files_sent_total{root="out"} 2',
            'outbox_has_problem{root="out"} 0',
        )
        until(f"figures say {lines}", lambda: all(f"\npeat_blob_{line}\n" in alpha.figures() for line in lines))
        say(f"dashboard and alerts: {used} of the {exported} figures that a daemon exports, and no other")
    other = Layout("two-nodes", work / "other", PROGRAMS)
    # A peer with another key: alpha is told of the one that has the place of bravo.
    stranger = other.services()["bravo"]
    services["alpha"].environment["PEAT_NODE_PEERS"] = f"{other.ids['bravo']}@{layout.addresses()['bravo']}:{stranger.port}"
    with running(on_loopback({"alpha": services["alpha"], "bravo": stranger}, layout.addresses())) as nodes:
        until("the keys are found to differ", lambda: nodes["alpha"].doctor()[1]["key"] == "problem")
    say("two nodes: both ways, with receipts, and after one was away")


def many_hosts(work, left_out):
    """Each host prepares by itself, with the key of the first."""
    first = Layout("many-hosts", work / "first", PROGRAMS)
    hosts, key = first.addresses(), first.directory / "generated/formation.env"
    services, ids = {}, set()
    for name in hosts:
        own = Layout("many-hosts", work / name, PROGRAMS, key=key)
        ids.add(tuple(own.ids.items()))
        services[name] = own.services({"NODE": name})["node"]
        assert services[name].name == name
    assert ids == {tuple(first.ids.items())}, "hosts with one key derive other ids"
    if why := network.missing():
        left_out(f"quickstart over a router: {why}; run over the loopback device instead")
        return across(on_loopback(services, hosts), first.ids)
    with network.Network(hosts) as net:
        # Nothing is otherwise than in containers but where the volumes lie.
        nodes = {name: Node(service, PROGRAMS, prefix=net.prefix(name)) for name, service in services.items()}
        across(nodes, first.ids)
        api = ["--daemon", "http://127.0.0.1:50051", "status"]
        with running(nodes):
            found = {name: node.ask(*api)["endpoint_id"] for name, node in nodes.items()}
        assert found == first.ids, "the API on the loopback device is another's"
    say("many hosts: three networks and a router between them, no discovery; the file came from who had it")


def across(nodes, ids):
    """Files to all; to one that was away by another than its sender, which is away itself by then."""
    a, b, c = (nodes[name] for name in ("site-a", "site-b", "site-c"))
    with running(nodes):
        assert {name: node.ask("status")["endpoint_id"] for name, node in nodes.items()} == ids
        a.write("orders.txt", ORDERS)
        b.received("orders.txt", ORDERS)
        c.received("orders.txt", ORDERS)
        a.completed("orders.txt", ["site-b", "site-c"])
        c.stop()
        a.write("map.bin", MAP)
        b.received("map.bin", MAP)
        a.stop()
        c.start()
        c.received("map.bin", MAP)
        a.start()
        a.completed("map.bin", ["site-b", "site-c"])


def in_a_container(work, left_out):
    work.mkdir()
    # Who runs in the container reaches its volumes.
    for path in (work.parent, work):
        path.chmod(0o755)
    service = Layout("one-node", work, PROGRAMS).services()["alpha"]
    if why := container.runs(service, PROGRAMS, work, say):
        left_out(f"the container of the quickstart: {why}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--left-out", type=pathlib.Path)
    told = parser.parse_args().left_out

    def left_out(text):
        say(f"left out: {text}")
        if told is not None:
            with told.open("a") as file:
                file.write(text + "\n")

    work = pathlib.Path(tempfile.mkdtemp())
    try:
        one_node(work)
        two_nodes(work)
        many_hosts(work, left_out)
        in_a_container(work / "container", left_out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
