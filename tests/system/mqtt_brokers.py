"""Private MQTT brokers on loopback ports: mosquitto, and RabbitMQ with its plug-in."""

import shutil
import signal
import subprocess
import time

from patchline.services import private_servers
from patchline.services.server import HOST, free_ports, is_listening

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"

NO_DELAY = "set_tcp_nodelay true"  # without it, each act waits for a delayed ACK of TCP, 40 ms


def hash_passwords(passwords, path):
    """Write a password file of mosquitto. Args: passwords: by user."""
    path.write_text("".join(f"{user}:{password}\n" for user, password in passwords.items()))
    subprocess.run([MOSQUITTO.replace("/sbin/", "/bin/") + "_passwd", "-U", str(path)], check=True)


def _wait_until_listening(port, process=None):
    deadline = time.monotonic() + 60
    while not is_listening(port):
        assert process is None or process.poll() is None, "mosquitto has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Mosquitto:
    """mosquitto, which stays the user that starts it, also if that is root.

    Args:
        home: folder of its configuration.
        lines: of the configuration, for the one listener.
    """

    def __init__(self, home, lines=("allow_anonymous true",)):
        (self.port,) = free_ports(1)
        home.mkdir(exist_ok=True)
        self._config = home / "mosquitto.conf"
        self._config.write_text("\n".join(["user root", f"listener {self.port} {HOST}", *lines, ""]))
        self.start()

    @property
    def url(self):
        return f"mqtt://{HOST}:{self.port}"

    def start(self):
        command = [MOSQUITTO, "-c", str(self._config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_until_listening(self.port, self.process)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.kill()
        self.process.wait()


class RabbitMq:
    """RabbitMQ with rabbitmq_mqtt.

    Args:
        home: folder of its data.
        lines: of its configuration, instead of a listener without TLS.
        port: of the listener in `lines`.
    """

    def __init__(self, home, lines=None, port=None):
        self.port = port or free_ports(1)[0]
        self.node = private_servers.rabbitmq(home, lines or f"mqtt.listeners.tcp.1 = {HOST}:{self.port}\n")
        (home / "enabled_plugins").write_text("[rabbitmq_prometheus,rabbitmq_mqtt].\n")
        self.start()

    @property
    def url(self):
        return f"mqtt://guest:guest@{HOST}:{self.port}"

    def start(self):
        self.node.server.start()
        self.node.server.wait()
        _wait_until_listening(self.port)

    def stop(self):
        self.node.server.stop()
