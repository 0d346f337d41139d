"""A gate's output over MQTT, with real brokers and the program of an arm as a process."""

import gc
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from patchline.gate.mqtt_output import MqttOutput
from patchline.gate.outputs import OutputError, OutputState
from patchline.protocol import server_url
from patchline.protocol.errors import SetupError
from patchline.protocol.tls import Certificates
from patchline.services.server import HOST
from tests.system.conftest import records
from tests.system.gates import complete_lines
from tests.system.mqtt_brokers import Mosquitto, RabbitMq, hash_passwords
from tests.unit import test_gate_outputs
from tests.unit.test_gate_outputs import (
    test_an_action_that_returns_has_reached_the_arm,  # noqa: F401
    test_an_arm_that_is_out_of_order_fails_the_action_and_can_come_back,  # noqa: F401
    test_an_arm_that_works_takes_signs_of_life,  # noqa: F401
    test_an_output_can_be_closed_twice,  # noqa: F401
)

pytestmark = pytest.mark.timeout(240)
PATIENCE_S = 30.0  # of acts that are to succeed, on a busy machine
ARM = str(Path(__file__).with_name("mqtt_arm.py"))


def action(job_id):
    return test_gate_outputs.action("j").model_copy(update={"job_id": job_id})


class Arm:
    """The program of an arm, and the output that speaks with it."""

    def __init__(self, folder, broker, mode="json", timeout_s=PATIENCE_S, url=None, arm_url=None, ca_file=None):
        self.broker = broker
        self.arguments = [
            arm_url or broker.url,
            "l",
            str(folder / "arm.jsonl"),
            mode,
            *([str(ca_file)] if ca_file else []),
        ]
        self.log = folder / "arm.jsonl"
        self.log.touch()
        self.start()
        self.output = MqttOutput(url or broker.url, "l", "g1", timeout_s, certificates=Certificates(ca_file))
        call_until_it_succeeds(self.output.check)

    def start(self):
        ready = len(self.entries("ready"))
        self.process = subprocess.Popen([sys.executable, ARM, *self.arguments])
        self.wait_for(lambda: len(self.entries("ready")) > ready)

    def entries(self, key):
        return [entry[key] for entry in records(complete_lines(self.log)) if key in entry]

    def told(self):
        return self.entries("job")

    def states(self):
        return self.entries("state")

    def wait_for(self, condition, meanwhile=lambda: None):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            meanwhile()
            time.sleep(0.02)

    def wait_for_state(self, state, meanwhile=lambda: None):
        self.wait_for(lambda: self.states()[-1:] == [state], meanwhile)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def break_(self):
        self.stop()
        self.output._timeout_s = 0.5

    def mend(self):
        self.output._timeout_s = PATIENCE_S
        self.start()
        call_until_it_succeeds(self.output.check)


class ArmWithoutBroker(Arm):
    """The broker goes, and the arm stays."""

    def break_(self):
        self.ready = len(self.entries("ready"))
        self.broker.stop()

    def mend(self):
        self.broker.start()
        self.wait_for(lambda: len(self.entries("ready")) > self.ready)
        call_until_it_succeeds(self.output.check)


def tell_until(arm, told, state):
    arm.wait_for_state(state, lambda: arm.output.tell(told))


def call_until_it_succeeds(call):
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except OutputError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory):
    broker = RabbitMq(tmp_path_factory.mktemp("rabbitmq") / "node")
    yield broker
    broker.stop()


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path / "mosquitto")
    yield broker
    broker.stop()


@pytest.fixture(params=["mosquitto", "rabbitmq"])
def broker(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[Arm, ArmWithoutBroker])
def arm(request, broker, tmp_path):
    arm = request.param(tmp_path, broker)
    yield arm
    arm.output.close()
    arm.stop()


@pytest.fixture
def start_arm(mosquitto, tmp_path):
    arms = []

    def start(mode="json", timeout_s=PATIENCE_S):
        arms.append(Arm(tmp_path, mosquitto, mode, timeout_s))
        return arms[-1]

    yield start
    for arm in arms:
        arm.output.close()
        arm.stop()


def test_a_bare_job_id_acknowledges(start_arm):
    start_arm("bare").output.act(action("j"))


@pytest.mark.parametrize(
    ("mode", "message"),
    [("silent", "the arm has not answered within 1 s"), ("other", "not answered"), ("error", "reports: bin full")],
)
def test_an_act_that_the_broker_has_confirmed_is_not_done_before_the_arm_says_so(start_arm, mode, message):
    arm = start_arm(mode, timeout_s=1.0 if mode != "error" else PATIENCE_S)
    with pytest.raises(OutputError, match=message):
        arm.output.act(action("j"))


def test_an_answer_that_the_broker_has_retained_acknowledges_nothing(start_arm, mosquitto):
    arm = start_arm("silent", timeout_s=1.0)
    arm.output.close()
    publish = (
        "from paho.mqtt import publish; import sys; publish.single(sys.argv[1], 'j', 1, True, port=int(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", publish, "patchline/l/ack", str(mosquitto.port)], check=True)
    call_until_it_succeeds(arm.output.check)
    with pytest.raises(OutputError, match="not answered"):
        arm.output.act(action("j"))


def test_the_arm_sees_the_state_of_its_gate_and_that_it_has_gone(start_arm):
    arm = start_arm()
    for state, told in {
        "serving": OutputState(),
        "blind": OutputState(blind=True),
        "fault": OutputState(faulty=True),
    }.items():
        tell_until(arm, told, state)
    arm.wait_for_state("standby", arm.output.check)
    arm.output.close()
    arm.wait_for_state("dead")


def test_an_arm_that_connects_later_sees_the_state(start_arm):
    arm = start_arm()
    tell_until(arm, OutputState(blind=True), "blind")
    arm.stop()
    arm.log.write_text("")
    arm.start()
    arm.wait_for_state("blind")


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
@pytest.mark.parametrize("name", ["mosquitto", "rabbitmq"])
def test_the_broker_says_that_a_killed_or_frozen_gate_is_dead(request, tmp_path, name, frozen):
    arm = Arm(tmp_path, request.getfixturevalue(name))
    gate = subprocess.Popen([sys.executable, "-c", GATE, arm.broker.url])
    try:
        arm.wait_for(lambda: "serving" in arm.states())
        gate.send_signal(signal.SIGSTOP if frozen else signal.SIGKILL)
        arm.wait_for(lambda: arm.states()[-1:] == ["dead"] and arm.entries("gate")[-1:] == ["g2"])
    finally:
        gate.kill()
        gate.wait()
        arm.output.close()
        arm.stop()


GATE = """
import sys, time
from patchline.gate.mqtt_output import MqttOutput
from patchline.gate.outputs import OutputState
output = MqttOutput(sys.argv[1], "l", "g2", 30.0)
while True:
    output.tell(OutputState())
    time.sleep(0.02)
"""


def test_a_frozen_broker_fails_acts_within_their_time_and_delivers_nothing_that_the_gate_kept(start_arm, mosquitto):
    arm = start_arm()
    arm.output.act(action("before"))
    arm.output._timeout_s = 0.5
    mosquitto.freeze()
    try:
        for number in range(8):
            with pytest.raises(OutputError):
                arm.output.act(action(f"frozen-{number}"))
    finally:
        mosquitto.thaw()
    arm.output._timeout_s = PATIENCE_S
    call_until_it_succeeds(lambda: arm.output.act(action("after")))
    delivered = [job for job in arm.told() if job.startswith("frozen")]
    assert arm.told()[-1] == "after"
    assert len(delivered) < 8  # those that were on the wire


def test_a_broker_that_is_away_when_the_gate_starts_is_a_fault_until_it_comes(tmp_path):
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.stop()
    output = MqttOutput(broker.url, "l", "g1", PATIENCE_S)
    with pytest.raises(OutputError, match="cannot be reached"):
        output.check()
    broker.start()
    try:
        call_until_it_succeeds(output.check)
    finally:
        output.close()
        broker.stop()


ACCESS = """
user gate
topic write patchline/l/act
topic write patchline/l/gate/#
topic read patchline/l/ack
user arm
topic read patchline/l/act
topic read patchline/l/gate/#
topic write patchline/l/ack
"""


@pytest.fixture
def secured(tmp_path):
    """A broker with TLS, users and passwords, as docs/security.md describes it."""
    authority, folder = trustme.CA(), tmp_path
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    hash_passwords({"gate": "g/p@ss", "arm": "arm-pass", "camera": "camera-pass"}, folder / "passwords")
    (folder / "access").write_text(ACCESS)
    files = {"certfile": "server.pem", "keyfile": "server.key", "password_file": "passwords", "acl_file": "access"}
    lines = [f"{key} {folder / name}" for key, name in files.items()]
    broker = Mosquitto(tmp_path / "mosquitto", ["allow_anonymous false", *lines])
    yield broker
    broker.stop()


FORGED_ANSWERS = """
import sys, time
from paho.mqtt import publish
port, ca_file, user, password = sys.argv[1:]
while True:
    publish.single("patchline/l/ack", "second", 1, hostname="127.0.0.1", port=int(port), tls={"ca_certs": ca_file},
                           auth={"username": user, "password": password})
    print("published", flush=True)
    time.sleep(0.2)
"""


@contextmanager
def answers_of(broker, ca_file, user, password):
    """A program that publishes answers to the job `second` all the time."""
    command = [sys.executable, "-c", FORGED_ANSWERS, str(broker.port), str(ca_file), user, password]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            yield
        finally:
            process.kill()


def url_of(broker, user, password):
    return server_url.with_user(f"mqtts://{HOST}:{broker.port}", user, password)


def test_an_act_over_tls_is_acknowledged_by_the_user_of_the_arm_and_by_no_other(secured, tmp_path):
    gate, ca_file = url_of(secured, "gate", "g/p@ss"), tmp_path / "authority.pem"
    arm = Arm(tmp_path, secured, url=gate, arm_url=url_of(secured, "arm", "arm-pass"), ca_file=ca_file)
    arm.output.act(action("first"))
    arm.stop()
    arm.output._timeout_s = 2.0
    with answers_of(secured, ca_file, "camera", "camera-pass"):
        call_until_it_succeeds(arm.output.check)
        with pytest.raises(OutputError, match="not answered"):
            arm.output.act(action("second"))
    arm.output._timeout_s = PATIENCE_S
    with answers_of(secured, ca_file, "arm", "arm-pass"):  # the same program, as a user who may
        call_until_it_succeeds(lambda: arm.output.act(action("second")))
    arm.output.close()


# paho leaves it to Python to close a socket whose handshake has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("password", "ca_file", "message"),
    [("wrong", "authority.pem", "refuses"), ("g/p@ss", "other.pem", "cannot be reached .*certificate verify failed")],
)
def test_a_wrong_password_and_a_certificate_of_another_authority_are_faults(
    secured, tmp_path, password, ca_file, message
):
    url = url_of(secured, "gate", password)
    output = MqttOutput(url, "l", "g1", PATIENCE_S, certificates=Certificates(tmp_path / ca_file))
    with pytest.raises(OutputError, match=message) as error:
        output.check()
    assert password not in str(error.value)
    del error
    gc.collect()


@pytest.mark.parametrize("url", ["mqtt://gate:s3cr/t@broker", "http://broker", "mqtt://broker:s3cret"])
def test_a_url_that_cannot_be_used_is_an_error_of_the_setup_that_quotes_nothing(url):
    with pytest.raises(SetupError) as error:
        MqttOutput(url, "l", "g1", 1.0)
    assert "broker" not in str(error.value)
    assert "s3cr" not in str(error.value)
