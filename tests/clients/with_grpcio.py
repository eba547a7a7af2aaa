"""gRPC's own implementation (grpcio) against a daemon over TCP, with stubs that its tools make of our contract: calls, streams in
both directions, health, reflection, mutual TLS. It ends with 0 only if everything is answered as gRPC wants it."""

import hashlib
import sys
import tempfile

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

from fleet import DEADLINE, PROTO, Fleet, until

FILES = ["peat/sidecar/v1/sidecar.proto", "peat/blob/v1/blob.proto"]


def code_of(call):
    """The status code that a call fails with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError("it does not fail")


def attachments(fleet, channel):
    from peat.sidecar.v1 import sidecar_pb2 as api
    from peat.sidecar.v1 import sidecar_pb2_grpc

    client = sidecar_pb2_grpc.PeatSidecarStub(channel)
    status = client.GetStatus(api.GetStatusRequest(), timeout=DEADLINE)
    assert (status.node_id, status.phase) == ("alpha", api.NODE_PHASE_READY), status
    content = b"sent with grpcio\n" * 10000
    (fleet.outbox / "grpcio.txt").write_bytes(content)
    digest = hashlib.sha256(content).digest()
    spec = api.FileSpec(root_name="out", relative_path="grpcio.txt", size_bytes=len(content), sha256=digest)
    scope = api.DistributionScopeSpec(node_list=api.NodeList(node_ids=["bravo"]))
    sent = client.SendAttachments(api.SendAttachmentsRequest(files=[spec], scope=scope), timeout=DEADLINE)
    which = api.GetAttachmentDistributionRequest(distribution_id=sent.handles[0].distribution_id)
    completed = api.DISTRIBUTION_STATUS_COMPLETED
    until("completed", lambda: client.GetAttachmentDistribution(which, timeout=DEADLINE).status == completed)
    assert (fleet.inbox / "grpcio.txt").read_bytes() == content
    follow = api.SubscribeAttachmentBundleRequest(bundle_id=sent.bundle_id)
    assert [*client.SubscribeAttachmentBundle(follow, timeout=DEADLINE)][-1].status == completed
    wrong = api.GetAttachmentDistributionRequest(distribution_id="00")
    assert code_of(lambda: client.GetAttachmentDistribution(wrong, timeout=DEADLINE)) == grpc.StatusCode.NOT_FOUND


def native(fleet, channel):
    from peat.blob.v1 import blob_pb2 as api
    from peat.blob.v1 import blob_pb2_grpc

    client = blob_pb2_grpc.BlobServiceStub(channel)
    assert client.GetNode(api.GetNodeRequest(), timeout=DEADLINE).name == "alpha"
    content = bytes(range(256)) * 8192

    def upload():
        scope = api.Scope(nodes=api.Scope.Nodes(nodes=["bravo"]))
        yield api.SendStreamRequest(options=api.SendOptions(scope=scope))
        yield api.SendStreamRequest(file=api.StreamedFile(path=b"streamed.bin"))
        for at in range(0, len(content), 1 << 16):
            yield api.SendStreamRequest(chunk=content[at : at + (1 << 16)])

    sent = client.SendStream(upload(), timeout=DEADLINE)
    assert (sent.file_count, sent.bytes) == (1, len(content)), sent
    which = api.GetDistributionRequest(distribution_id=sent.distribution_id)
    completed = api.DISTRIBUTION_STATE_COMPLETED
    until("completed", lambda: client.GetDistribution(which, timeout=DEADLINE).distribution.state == completed)
    assert (fleet.inbox / "streamed.bin").read_bytes() == content
    read = client.ReadBlob(api.ReadBlobRequest(blob=sent.files[0].blob), timeout=DEADLINE)
    assert b"".join(part.chunk for part in read) == content
    watched = client.Watch(api.WatchRequest(), timeout=DEADLINE)
    watched.cancel()


def health(channel):
    client = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING

    def check(service):
        return client.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE).status

    assert check("") == check("peat.blob.v1.BlobService") == serving
    assert code_of(lambda: check("no.such.Service")) == grpc.StatusCode.NOT_FOUND
    for service, expected in (("", serving), ("no.such.Service", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)):
        watch = client.Watch(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        assert next(watch).status == expected
        watch.cancel()


def reflection(channel):
    """What grpcurl and its like do: they find a service, and of what its messages consist, without our files."""
    known = ProtoReflectionDescriptorDatabase(channel)
    services = set(known.get_services())
    assert {"peat.sidecar.v1.PeatSidecar", "peat.blob.v1.BlobService", "grpc.health.v1.Health"} <= services, services
    pool = DescriptorPool(known)
    method = pool.FindServiceByName("peat.sidecar.v1.PeatSidecar").FindMethodByName("GetStatus")
    assert [field.name for field in method.output_type.fields][0] == "node_id"
    # The messages of the final version are those of the one before it.
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="peat.blob.v1.BlobService.GetNode"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
    ]
    found, absent = ask(iter(asked), timeout=DEADLINE)
    assert b"peat/blob/v1/blob.proto" in found.file_descriptor_response.file_descriptor_proto[0]
    assert absent.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def mutual_tls(fleet):
    from peat.sidecar.v1 import sidecar_pb2 as api
    from peat.sidecar.v1 import sidecar_pb2_grpc

    def ask(credentials):
        with grpc.secure_channel(fleet.bravo.tcp, credentials) as channel:
            return sidecar_pb2_grpc.PeatSidecarStub(channel).GetStatus(api.GetStatusRequest(), timeout=DEADLINE).node_id

    ca, key, certificate = ((fleet.work / name).read_bytes() for name in ("ca.cert", "client.key", "client.cert"))
    assert ask(grpc.ssl_channel_credentials(ca, key, certificate)) == "bravo"
    assert code_of(lambda: ask(grpc.ssl_channel_credentials(ca))) == grpc.StatusCode.UNAVAILABLE


with tempfile.TemporaryDirectory() as stubs:
    made = protoc.main(["protoc", f"--proto_path={PROTO}", f"--python_out={stubs}", f"--grpc_python_out={stubs}", *FILES])
    assert made == 0, "the contract does not compile"
    sys.path.insert(0, stubs)
    with Fleet() as fleet, grpc.insecure_channel(fleet.alpha.tcp) as channel:
        attachments(fleet, channel)
        native(fleet, channel)
        health(channel)
        reflection(channel)
        if fleet.has_tls:
            mutual_tls(fleet)
print("grpcio: calls, streams, health, reflection" + (", mutual TLS" if fleet.has_tls else ""))
