"""The trace that a producer begins continues to the verdict and is exported to an OTLP collector."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from patchline.broker.base import Message
from patchline.protocol import messages, topology
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(120)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector():
    """A collector on loopback. Received spans are in `spans`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                service = {item.key: item.value.string_value for item in resource.resource.attributes}
                assert service["service.name"] == "patchline"
                server.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.spans = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def start_exporter(line, collector, every_ms=200):
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    process = line.start("traces", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY=str(every_ms))
    assert any("trace exporter started" in log for log in process.stderr)
    return process


def attributes(span):
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_the_trace_of_a_job_reaches_the_collector_with_its_stages(line, collector, texture_folder):
    start_exporter(line, collector)
    line.worker("--device", "cpu")
    image = next((texture_folder / "test" / "scratch").glob("*.png")).read_bytes()
    line.send(image, "job-1", traceparent=f"00-{TRACE}-{PARENT}-01")
    (verdict,) = line.verdicts(1)
    wait_for(lambda: any(span.name == "inspect brick" for span in collector.spans))  # it ends after its stages
    (job,) = (span for span in collector.spans if span.name == "inspect brick")
    assert (job.trace_id.hex(), job.parent_span_id.hex()) == (TRACE, PARENT)
    values = attributes(job)
    assert (values["patchline.job_id"], values["patchline.decision"]) == ("job-1", "fail")
    assert values["patchline.score"] == pytest.approx(verdict.score)
    assert job.start_time_unix_nano == verdict.captured_at * 1_000_000
    assert job.end_time_unix_nano == verdict.decided_at * 1_000_000
    children = {span.name: span for span in collector.spans if span.parent_span_id == job.span_id}
    assert [*children] == ["queue", *verdict.durations_ms]
    assert {"decode", "extract", "search", "heat_map"} <= children.keys()
    for name, duration_ms in verdict.durations_ms.items():
        span = children[name]
        assert span.trace_id.hex() == TRACE
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(duration_ms, abs=1e-3)


def test_an_unreadable_image_is_a_failed_span_and_a_job_without_a_trace_begins_one(line, collector):
    start_exporter(line, collector)
    line.worker("--device", "cpu")
    line.send(b"not an image", "job-2")
    wait_for(lambda: any(span.name == "inspect brick" for span in collector.spans))
    (job,) = (span for span in collector.spans if span.name == "inspect brick")
    assert job.status.code == 2  # error
    assert attributes(job)["patchline.reason"]
    assert len(job.trace_id) == 16
    assert not job.parent_span_id


def test_an_invalid_verdict_is_skipped_and_the_others_are_exported_at_the_end(line, collector, texture_folder):
    process = start_exporter(line, collector, every_ms=600_000)

    def publish_invalid_verdict(job_id):
        message = Message(b"{", job_id, messages.VERDICT_TYPE, "application/json")
        line.broker.publish(topology.VERDICTS, "l1.brick.pass", message)
        assert any("invalid verdict" in log and job_id in log for log in process.stderr)

    publish_invalid_verdict("before")
    line.worker("--device", "cpu")
    line.send(next((texture_folder / "test" / "good").glob("*.png")).read_bytes(), "job-3")
    line.messages(topology.VERDICTS, 2)
    publish_invalid_verdict("after")  # the exporter has taken what came before
    assert collector.spans == []
    process.terminate()
    assert process.wait(30) == 0
    assert any(span.name == "inspect brick" for span in collector.spans)
