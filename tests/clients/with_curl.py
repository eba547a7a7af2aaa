"""curl against a daemon: Connect in JSON over a Unix socket, a stream of it, gRPC-Web, plain HTTP, and mutual TLS. It ends with 0
only if everything is answered as the protocols want it."""

import base64
import hashlib
import json
import struct
import subprocess

from fleet import Fleet, until

SIDECAR = "peat.sidecar.v1.PeatSidecar"


def curl(*arguments, body=None):
    """The status and the body of an answer."""
    command = ["curl", "--silent", "--show-error", "--max-time", "120", "--write-out", "%{stderr}%{http_code}", *arguments]
    if body is not None:
        command += ["--data-binary", "@-"]
    done = subprocess.run(command, input=body, capture_output=True)
    assert done.returncode == 0, f"curl {done.returncode}: {done.stderr}"
    return int(done.stderr), done.stdout


def frames(body):
    """The messages of a stream, each with its flags: a byte of flags and four of length before each."""
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        assert len(body) >= 5 + length, "a frame is cut off"
        yield flags, body[5 : 5 + length]
        body = body[5 + length :]


def framed(message):
    return struct.pack(">BI", 0, len(message)) + message


def main(fleet):
    unix = ["--unix-socket", str(fleet.socket)]

    def post(service, method, message, content_type="application/json"):
        url = f"http://localhost/{service}/{method}"
        return curl(*unix, "--header", f"content-type: {content_type}", url, body=message)

    def call(method, request):
        status, body = post(SIDECAR, method, json.dumps(request).encode())
        assert status == 200, f"{method}: {status} {body}"
        return json.loads(body)

    status = call("GetStatus", {})
    assert (status["nodeId"], status["phase"]) == ("alpha", "NODE_PHASE_READY"), status

    # An error is JSON too, with HTTP's own status.
    code, body = post(SIDECAR, "GetAttachmentDistribution", b'{"distributionId":"00"}')
    assert (code, json.loads(body)["code"]) == (404, "not_found"), body

    content = b"orders of the day\n"
    (fleet.outbox / "orders.txt").write_bytes(content)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    spec = {"rootName": "out", "relativePath": "orders.txt", "sizeBytes": str(len(content)), "sha256": digest}
    sent = call("SendAttachments", {"files": [spec], "scope": {"nodeList": {"nodeIds": ["bravo"]}}, "bundleId": "by-curl"})
    handle = sent["handles"][0]

    def is_completed():
        found = call("GetAttachmentDistribution", {"distributionId": handle["distributionId"]})
        return found["status"] == "DISTRIBUTION_STATUS_COMPLETED"

    until("completed", is_completed)
    assert (fleet.inbox / "orders.txt").read_bytes() == content

    # A stream of Connect: messages, then one that ends it.
    ask = framed(json.dumps({"bundleId": "by-curl"}).encode())
    code, body = post(SIDECAR, "SubscribeAttachmentBundle", ask, "application/connect+json")
    assert code == 200, body
    *messages, (flags, end) = frames(body)
    assert flags == 2 and "error" not in json.loads(end), end
    last = json.loads(messages[-1][1])
    assert (last["distributionId"], last["status"]) == (handle["distributionId"], "DISTRIBUTION_STATUS_COMPLETED"), last

    # gRPC-Web: messages, then the trailers as a frame.
    code, body = post(SIDECAR, "GetStatus", framed(b""), "application/grpc-web+proto")
    assert code == 200, body
    (flags, message), (last_flags, trailers) = frames(body)
    assert flags == 0 and b"alpha" in message, message
    assert last_flags == 0x80 and b"grpc-status: 0" in trailers.lower().replace(b":0", b": 0"), trailers

    for path in ("livez", "readyz"):
        assert curl(*unix, f"http://localhost/{path}") == (200, b"ok\n"), path
    code, figures = curl(*unix, "http://localhost/metrics")
    assert code == 200 and b"\npeat_blob_peers_connected 1\n" in figures, figures

    if fleet.has_tls:
        url = f"https://{fleet.bravo.tcp}/livez"
        trust = ["--cacert", str(fleet.work / "ca.cert")]
        own = ["--cert", str(fleet.work / "client.cert"), "--key", str(fleet.work / "client.key")]
        assert curl(*trust, *own, url) == (200, b"ok\n")
        refused = subprocess.run(["curl", "--silent", "--max-time", "120", *trust, url], capture_output=True)
        assert refused.returncode != 0, "who shows no certificate is let in"


with Fleet() as fleet:
    main(fleet)
print("curl: Connect, its stream, gRPC-Web, plain HTTP" + (", mutual TLS" if fleet.has_tls else ""))
