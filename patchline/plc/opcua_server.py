"""Words in this process that a PLC reads and writes as an OPC UA client, as variables with names and types."""

from __future__ import annotations

import hmac
from array import array
from collections.abc import Coroutine, Sequence
from datetime import UTC
from typing import Any, TypeVar

import structlog
from asyncua import Server, ua
from asyncua.common.callback import CallbackType, ServerItemCallback
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.event_generator import EventGenerator
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession

from patchline.plc import opcua_model, register_map, vision_states
from patchline.plc.loop_thread import LoopThread
from patchline.plc.opcua_model import Place
from patchline.plc.opcua_security import OpcUaIdentity, OpcUaSecurity
from patchline.plc.register_map import Field, Layout
from patchline.plc.words import PlcError, PlcRefusal

_log = structlog.get_logger(__name__)
PORT = 4840
TIMEOUT_S = 0.2
SESSION_S = 60.0
MAX_CONNECTIONS = 16
_START_S = 120.0
_END_S = 10.0
_T = TypeVar("_T")


class OpcUaServer:
    """A `WordMemory` whose words are the variables of an OPC UA server.

    The information model is in `opcua_model.py`. The gate's area is read-only for clients, and the PLC's is writable.
    A client that reads several fields of a slot in one Read sees all of a write or none. A Write of a client is done
    as a whole, or refused as a whole.

    It listens when the constructor returns, which takes seconds, until `close`. A call after that starts it again.

    Args:
        host: address to listen on.
        port: TCP port; 0 picks a free one.
        layout: where the areas are.
        security: certificates and user. If None, everybody who reaches the port may write the PLC's area.
        timeout_s: time limit of a call in seconds.

    Raises:
        SetupError: a file cannot be used.
        PlcError: the address cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        layout: Layout,
        security: OpcUaSecurity | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._host, self._port, self._layout, self._timeout_s = host, port, layout, timeout_s
        self._identity = None if security is None else security.load()
        self._words = {layout.gate: [0] * layout.gate_words, layout.plc: [0] * layout.plc_words}
        self._thread: LoopThread | None = None
        self._serving = self._start()

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._port

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        return self._run(self._running().read(start, count))

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        self._run(self._running().write(start, array("H", words).tolist()))

    def close(self) -> None:
        """End all sessions and give the port back. The words stay."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            thread.run(self._serving.stop(), _END_S)
            thread.close()

    def _running(self) -> _Serving:
        if self._thread is None:
            self._serving = self._start()
        return self._serving

    def _start(self) -> _Serving:
        thread = LoopThread("patchline-opcua-server")
        serving = _Serving(self._layout, self._words, self._identity)
        try:
            self._port = thread.run(serving.start(self._host, self._port), _START_S)
        except (OSError, TimeoutError) as error:
            thread.close()
            raise PlcError(f"OPC UA: cannot listen on {self._host}:{self._port}: {error}") from error
        self._thread = thread
        url = opcua_model.url(self._host, self._port)
        _log.info("listening for the PLC", protocol="OPC UA", url=url, encrypted=self._identity is not None)
        return serving

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        assert self._thread is not None
        try:
            return self._thread.run(coroutine, self._timeout_s)
        except TimeoutError:
            raise PlcError(f"OPC UA: our own server has not answered within {self._timeout_s} s") from None


class _Serving:
    """The server and its words. Everything here runs on the thread of the event loop."""

    def __init__(self, layout: Layout, words: dict[int, list[int]], identity: OpcUaIdentity | None) -> None:
        self._layout, self._words, self._identity = layout, words, identity
        self._places = opcua_model.places(layout)
        self._writable: dict[ua.NodeId, tuple[Place, Field]] = {}
        self._server = Server(iserver=_Sessions(user_manager=_Users(identity)))  # type: ignore[arg-type]
        self._index = 0
        self._events: _Events | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen. Return the port."""
        await self._server.init()
        self._server.name = "Patchline"
        self._server.set_endpoint(opcua_model.url(host, port))
        await self._secure()
        model = await opcua_model.build(self._server, self._layout)
        self._index = model.index
        for place in self._places:
            if place.node.startswith(opcua_model.PLC):
                self._writable |= {node: (place, field) for field, node in opcua_model.nodes_of(place, model.index)}
        self._events = await _Events.create(self._server, model)
        await self._show(self._places)
        subscribe = self._server.iserver.subscribe_server_callback
        subscribe(CallbackType.PreWrite, self._before_write)  # type: ignore[arg-type]
        subscribe(CallbackType.PostWrite, self._after_write)  # type: ignore[arg-type]
        await self._server.start()
        assert self._server.bserver is not None
        return self._server.bserver.port

    async def stop(self) -> None:
        await self._server.stop()

    async def read(self, start: int, count: int) -> tuple[int, ...]:
        words, offset = self._place(start, count)
        return tuple(words[offset : offset + count])

    async def write(self, start: int, new: list[int]) -> None:
        words, offset = self._place(start, len(new))
        if words[offset : offset + len(new)] == new:
            return
        words[offset : offset + len(new)] = new
        end = start + len(new)
        await self._show([place for place in self._places if place.first < end and start < place.end])

    async def _show(self, places: Sequence[Place]) -> None:
        time = ua.DateTime.now(UTC)
        changes: dict[ua.NodeId, ua.DataValue] = {}
        for place in places:
            values = self._values(place)
            for field, node in opcua_model.nodes_of(place, self._index):
                changes[node] = opcua_model.value(field, values[field.name], time)
        await _change(self._server, changes)
        assert self._events is not None
        for place in places:
            values = self._values(place)
            if place.record is register_map.GATE_HEADER:
                await self._events.show_state(int(values["version"]), int(values["state"]))
            elif place.record is register_map.RESULT and values["sequence"]:
                await self._events.show_result(values, time)

    def _values(self, place: Place) -> dict[str, register_map.Value]:
        words, offset = self._place(place.first, place.record.words)
        return place.record.unpack(words[offset : offset + place.record.words])

    def _place(self, start: int, count: int) -> tuple[list[int], int]:
        for first, words in self._words.items():
            if first <= start < start + count <= first + len(words):
                return words, start - first
        raise PlcRefusal(f"words {start} to {start + count - 1} do not exist")

    def _before_write(self, event: ServerItemCallback, _service: Any) -> None:
        """Refuse a Write that could only be done in part, or that asyncua would do wrongly."""
        if not event.is_external:
            return
        for item in event.request_params.NodesToWrite:
            known = self._writable.get(item.NodeId)
            if known is None or item.AttributeId != ua.AttributeIds.Value:
                raise ServiceError(ua.StatusCodes.BadNotWritable)
            if item.IndexRange:  # asyncua ignores it
                raise ServiceError(ua.StatusCodes.BadIndexRangeNoData)
            number = item.Value.Value
            if number is None or number.VariantType != opcua_model.TYPES[known[1].kind] or number.is_array:
                raise ServiceError(ua.StatusCodes.BadTypeMismatch)
            if item.Value.StatusCode is not None and not item.Value.StatusCode.is_good():
                raise ServiceError(ua.StatusCodes.BadWriteNotSupported)

    def _after_write(self, event: ServerItemCallback, _service: Any) -> None:
        if not event.is_external:
            return
        for item in event.request_params.NodesToWrite:
            place, field = self._writable[item.NodeId]
            words, offset = self._place(place.first + place.record.offset(field.name), field.words)
            packed = register_map.Record((field,)).pack({field.name: item.Value.Value.Value})
            words[offset : offset + field.words] = packed

    async def _secure(self) -> None:
        sessions = self._server.iserver
        sessions.max_session_timeout_ms = SESSION_S * 1000
        sessions.max_connections = MAX_CONNECTIONS
        if self._identity is None:
            self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            self._server.set_identity_tokens([ua.AnonymousIdentityToken])
            return
        self._server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        anonymous = self._identity.user is None
        self._server.set_identity_tokens([ua.AnonymousIdentityToken if anonymous else ua.UserNameIdentityToken])
        await self._server.load_certificate(self._identity.certificate, "der")
        await self._server.load_private_key(self._identity.key, None, "pem")
        await self._server.set_application_uri(self._identity.uri)


class _Events:
    """States, the last result, and an event for each result."""

    def __init__(self, server: Server, model: opcua_model.Model, generator: EventGenerator) -> None:
        self._server, self._model, self._generator = server, model, generator
        self._last_result = opcua_model.last_result(model.index)
        self._states: tuple[str, str] | None = None

    @classmethod
    async def create(cls, server: Server, model: opcua_model.Model) -> _Events:
        generator = await server.get_event_generator(model.result_ready)
        generator.event.SourceNode = opcua_model.node_id(f"{opcua_model.ROOT}.ResultManagement", model.index)
        generator.event.SourceName = "ResultManagement"
        generator.event.Severity = 1
        events = cls(server, model, generator)
        await events.show_state(0, 0)
        return events

    async def show_state(self, version: int, state: int) -> None:
        states = vision_states.states(version, state)
        if states == self._states:
            return
        self._states = states
        system, automatic = states
        for node, kind, name in (
            (self._model.system_state, "VisionStateMachineType", system),
            (self._model.automatic_state, "VisionAutomaticModeStateMachineType", automatic),
        ):
            await node.write_value(ua.LocalizedText(name, "en"), ua.VariantType.LocalizedText)
            identifier = await node.get_child("0:Id")
            await identifier.write_value(
                opcua_model.node_id(f"{kind}.{name}", self._model.index), ua.VariantType.NodeId
            )

    async def show_result(self, values: dict[str, register_map.Value], time: ua.DateTime) -> None:
        values = {"ResultState": vision_states.result_state(int(values["code"])).value} | values
        fields = {field.name: field for field in (opcua_model.RESULT_STATE, *register_map.RESULT.fields)}
        changes = {
            node: opcua_model.value(fields[name], values[name], time) for name, node in self._last_result.items()
        }
        await _change(self._server, changes)
        if not self._server.iserver.subscription_service.subscriptions:
            return
        for name in self._last_result:
            setattr(self._generator.event, name, values[name])
        await self._generator.trigger(time_attr=time, message=f"part {values['number']}")


class _Sessions(InternalServer):
    """Sessions that belong to the connection that began them."""

    def lookup_external_session(self, auth_token: ua.NodeId) -> InternalSession | None:
        """Return no session: a client that connects again begins a new one."""
        return None

    def register_server(self, server: Any, conf: Any = None) -> None:
        """Refuse: this is no discovery server."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


class _Users:
    """Who may begin a session, by the certificate of the connection, then by user and password."""

    def __init__(self, identity: OpcUaIdentity | None) -> None:
        self._identity = identity

    def get_user(
        self,
        iserver: InternalServer,
        username: str | None = None,
        password: str | bytes | None = None,
        certificate: bytes | None = None,
    ) -> User | None:
        """Return the user, or None if the session is refused."""
        identity = self._identity
        if identity is None:
            return User(role=UserRole.User)
        if identity.trusted(certificate) is None:
            return None
        given = password.encode() if isinstance(password, str) else password or b""
        right_password = hmac.compare_digest(given, (identity.password or "").encode())
        if identity.user is not None and (username != identity.user or not right_password):
            return None
        return User(role=UserRole.User, name=username)


async def _change(server: Server, values: dict[ua.NodeId, ua.DataValue]) -> None:
    """Change variables, for readers all at once, and for subscribers in the order of `values`."""
    attributes = {node: server.iserver.aspace[node].attributes[ua.AttributeIds.Value] for node in values}
    for node, attribute in attributes.items():
        attribute.value = values[node]
    for node, attribute in attributes.items():
        if attribute.datachange_callbacks:
            await server.write_attribute_value(node, values[node])
