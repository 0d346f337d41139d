#!/bin/sh
# asyncua 2.1.0: a server ignores the IndexRange of a Read and of a Write. A client that writes elements 2 and 3 of an
# array of ten gets Good, and the array has two elements afterwards. A Read of a range returns the whole array. OPC UA
# lets a server refuse ranges (BadWriteNotSupported), not ignore them.
#
# Seen: Good; [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] has become [77, 78]
#
# Patchline's client reads the range "0" of an array first, and writes whole arrays if that returns more than one
# element. Its server refuses a Write with an IndexRange.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check asyncua==2.1.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import logging
import socket
import sys

from asyncua import Client, Server, ua

logging.disable(logging.CRITICAL)
with socket.create_server(("127.0.0.1", 0)) as free:
    url = f"opc.tcp://127.0.0.1:{free.getsockname()[1]}/"


async def after_a_write_of_elements_2_and_3():
    server = Server()
    await server.init()
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:finding")
    ten = ua.Variant(list(range(10)), ua.VariantType.UInt16)
    array = await server.nodes.objects.add_variable(ua.NodeId("array", index), "array", ten)
    await array.set_writable()
    async with server, Client(url, timeout=60) as client:
        node = client.get_node(array.nodeid)
        two = ua.DataValue(ua.Variant([77, 78], ua.VariantType.UInt16))
        await node.write_attribute(ua.AttributeIds.Value, two, "2:3")  # raises if the status is not Good
        return await node.read_value()


values = asyncio.run(after_a_write_of_elements_2_and_3())
print(f"Good; [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] has become {values}")
sys.exit(0 if values == [77, 78] else 1)
PYTHON
