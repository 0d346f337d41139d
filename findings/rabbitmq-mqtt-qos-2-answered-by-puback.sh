#!/bin/sh
# RabbitMQ 3.10.8 (Debian 12), MQTT plugin: a PUBLISH with QoS 2 is answered by PUBACK, the answer of QoS 1, where
# MQTT 3.1.1 has PUBREC. The plugin says that it treats QoS 2 as QoS 1; a client cannot know that from CONNACK.
# mosquitto_pub 2.0.11 calls it a protocol error, closes the connection and ends with exit code 2, although RabbitMQ has
# taken the message and confirmed it. A camera's script that sends again after an error has then two messages.
#
# Needs rabbitmq-server 3.10.8, mosquitto-clients and python3. Seen: mosquitto_pub with QoS 1 ends with 0; with QoS 2
# it gets a PUBACK and ends with 2; the queue has both messages.
#
# Patchline's devices send with QoS 1 (docs/mqtt-in.md).
set -eu
folder=$(mktemp -d)
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
epmd=$(free_port) nodes=$(free_port) amqp=$(free_port) mqtt=$(free_port)
export HOME="$folder" ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_NODENAME="finding-$nodes@localhost" RABBITMQ_DIST_PORT="$nodes" RABBITMQ_MNESIA_BASE="$folder/data"
export RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_CONFIG_FILE="$folder/rabbitmq" RABBITMQ_PID_FILE="$folder/pid"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins" RABBITMQ_CONF_ENV_FILE="$folder/none"
printf '[rabbitmq_mqtt].\n' >"$folder/plugins"
cat >"$folder/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp
mqtt.listeners.tcp.1 = 127.0.0.1:$mqtt
CONF
bin=/usr/lib/rabbitmq/bin
"$bin/rabbitmq-server" >"$folder/out" 2>&1 &
server=$!
end() {
  "$bin/rabbitmqctl" -q stop >/dev/null 2>&1 || true
  wait "$server" 2>/dev/null || true
  epmd -port "$epmd" -kill >/dev/null 2>&1 || true
  rm -rf "$folder"
}
trap end EXIT
"$bin/rabbitmqctl" -q wait --timeout 120 "$folder/pid" >/dev/null
version=$("$bin/rabbitmqctl" -q version)

# A subscriber that keeps its session has a queue, in which the messages wait.
mosquitto_sub -p "$mqtt" -i keeper -c -q 1 -t photo -E
code() { "$@" >"$folder/said" 2>&1 && echo 0 || echo $?; }
first=$(code timeout 30 mosquitto_pub -d -p "$mqtt" -t photo -q 1 -m one)
second=$(code timeout 30 mosquitto_pub -d -p "$mqtt" -t photo -q 2 -m two)
answer=$(grep -oE 'PUBACK|PUBREC' "$folder/said" | head -n 1)
kept=$("$bin/rabbitmqctl" -q list_queues --no-table-headers messages | head -n 1)
cat "$folder/said"
echo "RabbitMQ $version: QoS 1 ends with $first, QoS 2 with $second after '$answer'; messages in the queue: $kept"
[ "$version $first $second $answer $kept" = "3.10.8 0 2 PUBACK 2" ]
