"""Words of a PLC that is an OPC UA server: arrays of UInt16 that it offers."""

from __future__ import annotations

import asyncio
import contextlib
from array import array as c_array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asyncua import Client, ua
from asyncua.client.ua_client import UaClientState
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties

from patchline.plc.loop_thread import LoopThread
from patchline.plc.opcua_security import OpcUaIdentity, OpcUaSecurity
from patchline.plc.words import PlcError, PlcRefusal
from patchline.protocol.errors import SetupError

TIMEOUT_S = 0.2
SESSION_S = 60.0  # a server forgets the session of a client that died after this time; the default would be an hour
CONNECT_S = 5.0  # for the whole handshake, which goes on between calls
_END_S = 1.0
_NO_RANGES = (ua.StatusCodes.BadWriteNotSupported, ua.StatusCodes.BadIndexRangeInvalid, ua.StatusCodes.BadNotSupported)
_T = TypeVar("_T")


@dataclass(frozen=True)
class WordArray:
    """An array variable of the server.

    Attributes:
        node: its node id, for example `ns=3;s="Patchline"."gate"`.
        first: number of the word that is its element 0.
    """

    node: str
    first: int


class OpcUaClient:
    """A `WordMemory` of one or two arrays: one of both areas, or one that the gate writes and one that it reads.

    A call takes at most `timeout_s`. The first call connects. If the handshake takes longer than the call may, it goes
    on, and a later call uses it. After an error of the connection the session is ended, and the next call begins a new
    one, with nothing left of the old. A session that was lost between two calls is replaced by the second.

    A part of an array is written by an IndexRange, in one request. If the server knows no IndexRange, the whole array
    is read, changed and written; then the PLC needs an array of its own, for it would lose what it writes meanwhile.

    Args:
        url: `opc.tcp://host:port/path` of the server.
        arrays: one or two arrays.
        security: certificates and user. If None, nothing is encrypted and the user is anonymous.
        timeout_s: time limit of a call in seconds.
        session_s: the server shall end the session if the client is silent for this time, in seconds.

    Raises:
        SetupError: a node id or a file cannot be used.
    """

    def __init__(
        self,
        url: str,
        arrays: Sequence[WordArray],
        security: OpcUaSecurity | None = None,
        timeout_s: float = TIMEOUT_S,
        session_s: float = SESSION_S,
    ) -> None:
        self._url, self._timeout_s, self._session_s = url, timeout_s, session_s
        self._arrays = {array: _node_id(array.node) for array in arrays}
        self._identity = None if security is None else security.load()
        self._thread: LoopThread | None = None
        self._session: asyncio.Task[_Session] | None = None
        self._ending: asyncio.Task[None] | None = None

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        return self._call(lambda session: session.read(start, count))

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        self._call(lambda session: session.write(start, c_array("H", words).tolist()))

    def close(self) -> None:
        """See `WordMemory`."""
        if self._thread is None:
            return
        with contextlib.suppress(TimeoutError):
            self._thread.run(self._end(), 2 * _END_S)
        self._thread.close()
        self._thread = None

    def _call(self, act: Callable[[_Session], Awaitable[_T]]) -> _T:
        if self._thread is None:
            self._thread = LoopThread("patchline-opcua-client")
        try:
            return self._thread.run(self._act(act), self._timeout_s)
        except TimeoutError:
            raise PlcError(f"OPC UA {self._url}: no answer within {self._timeout_s} s") from None

    async def _act(self, act: Callable[[_Session], Awaitable[_T]]) -> _T:
        if self._session is None or self._session.cancelled() or _is_lost(self._session):
            self._session = asyncio.create_task(self._connect())
        try:
            session = await asyncio.shield(self._session)  # a cancelled call leaves the handshake running
        except Exception as error:
            self._session = None
            raise PlcError(f"OPC UA {self._url}: {_reason(error)}") from error
        try:
            return await act(session)
        except PlcError as error:  # the server refused; the session is sound
            raise type(error)(f"OPC UA {self._url}: {error}") from error
        except asyncio.CancelledError:
            self._discard(session)
            raise
        except Exception as error:
            self._discard(session)
            raise PlcError(f"OPC UA {self._url}: {_reason(error)}") from error

    async def _connect(self) -> _Session:
        client = Client(self._url, timeout=CONNECT_S)
        client.session_timeout = int(self._session_s * 1000)
        client.name = client.description = "Patchline"
        session = _Session(client, self._arrays)
        try:
            async with asyncio.timeout(CONNECT_S):
                if self._identity is None:
                    await client.connect()
                else:
                    await _connect_securely(client, self._identity)
                await session.inspect_arrays()
        except BaseException:
            await session.end()
            raise
        return session

    def _discard(self, session: _Session) -> None:
        self._session = None
        self._ending = asyncio.create_task(session.end())

    async def _end(self) -> None:
        task, self._session = self._session, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(BaseException):
                await (await task).end()


def _is_lost(session: asyncio.Task[_Session]) -> bool:
    return session.done() and session.exception() is None and session.result().is_lost


class _Session:
    """One session: reads and writes arrays. Raises errors of asyncua, or PlcError if the server refused."""

    def __init__(self, client: Client, arrays: dict[WordArray, ua.NodeId]) -> None:
        self._client = client
        self._arrays = arrays
        self._sizes: dict[WordArray, int] = {}
        self._has_ranges = True

    @property
    def is_lost(self) -> bool:
        """The connection has ended."""
        return self._client.uaclient.state is UaClientState.DISCONNECTED

    async def inspect_arrays(self) -> None:
        """Look at type and size of each array, and whether the server knows ranges."""
        for array in self._arrays:
            self._sizes[array] = len(await self._read(array))
            if self._sizes[array] > 1:
                try:
                    self._has_ranges &= len(await self._read(array, "0")) == 1
                except PlcError:
                    self._has_ranges = False

    async def read(self, start: int, count: int) -> tuple[int, ...]:
        array, offset = self._place(start, count)
        if not self._has_ranges:
            return (await self._read(array))[offset : offset + count]
        words = await self._read(array, _range(offset, count))
        if len(words) != count:
            raise PlcRefusal(f"{array.node}: {len(words)} words instead of {count}")
        return words

    async def write(self, start: int, words: list[int]) -> None:
        array, offset = self._place(start, len(words))
        if self._has_ranges:
            status = await self._write(array, words, _range(offset, len(words)))
            if status.value not in _NO_RANGES:
                return _check(status, array)
            self._has_ranges = False
        if len(self._arrays) == 1:
            raise PlcError(
                f"{array.node}: the server writes whole arrays only; give it two, one that only the gate writes"
            )
        whole = list(await self._read(array))
        whole[offset : offset + len(words)] = words
        return _check(await self._write(array, whole, None), array)

    async def end(self) -> None:
        """End session and connection. A server that does not answer is left alone."""
        try:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_END_S):
                    await self._client.disconnect()
        finally:
            protocol = self._client.uaclient.protocol
            if protocol is not None and protocol.transport is not None:
                protocol.transport.abort()

    def _place(self, start: int, count: int) -> tuple[WordArray, int]:
        for array, size in self._sizes.items():
            if array.first <= start < start + count <= array.first + size:
                return array, start - array.first
        raise PlcRefusal(f"words {start} to {start + count - 1} do not exist")

    async def _read(self, array: WordArray, index_range: str | None = None) -> tuple[int, ...]:
        item = ua.ReadValueId(self._arrays[array], ua.AttributeIds.Value, index_range)
        [answer] = await self._client.uaclient.session.read(ua.ReadParameters(NodesToRead=[item]))
        _check(answer.StatusCode or ua.StatusCode(), array)
        value = answer.Value
        if value is None or value.VariantType != ua.VariantType.UInt16 or not isinstance(value.Value, list):
            kind = "empty" if value is None else value.VariantType.name
            raise PlcError(f"{array.node}: is {kind}, and no array of UInt16")
        return tuple(value.Value)

    async def _write(self, array: WordArray, words: list[int], index_range: str | None) -> ua.StatusCode:
        value = ua.DataValue(ua.Variant(words, ua.VariantType.UInt16, is_array=True))  # no timestamps: PLCs refuse them
        item = ua.WriteValue(self._arrays[array], ua.AttributeIds.Value, index_range, value)
        [status] = await self._client.uaclient.session.write(ua.WriteParameters(NodesToWrite=[item]))
        return status


async def _connect_securely(client: Client, identity: OpcUaIdentity) -> None:
    """Connect with encryption, if the server's certificate is trusted."""
    client.application_uri = identity.uri
    if identity.user is not None and identity.password is not None:
        client.set_user(identity.user)
        client.set_password(identity.password)
    for endpoint in await client.connect_and_get_server_endpoints():
        secure = endpoint.SecurityMode == ua.MessageSecurityMode.SignAndEncrypt
        if secure and endpoint.SecurityPolicyUri == SecurityPolicyBasic256Sha256.URI:
            break
    else:
        raise PlcError("the server offers no Basic256Sha256 with SignAndEncrypt")
    certificate = identity.trusted(endpoint.ServerCertificate)
    if certificate is None:
        raise PlcError("the certificate of the server is not in peer_files, or has expired")
    await client.set_security(
        SecurityPolicyBasic256Sha256,
        CertProperties(identity.certificate, "der"),
        CertProperties(identity.key, "pem"),
        server_certificate=CertProperties(certificate, "der"),
    )
    try:
        await client.connect()
    except (AssertionError, ConnectionError) as error:  # asyncua's sign that no channel was opened
        raise PlcError("the server opens no encrypted channel; it may not trust our certificate") from error


def _check(status: ua.StatusCode, array: WordArray) -> None:
    if not status.is_good():
        raise PlcRefusal(f"{array.node}: refused with {status.name}")


def _range(offset: int, count: int) -> str:
    return str(offset) if count == 1 else f"{offset}:{offset + count - 1}"


def _node_id(text: str) -> ua.NodeId:
    try:
        return ua.NodeId.from_string(text)
    except (ua.UaError, ValueError) as error:
        raise SetupError(f"OPC UA: {text!r} is no node id, such as ns=3;s=name or ns=3;i=5") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no session within {CONNECT_S:.0f} s"
    return str(error) or type(error).__name__
