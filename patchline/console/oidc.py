"""Log-ins with the accounts of a plant (OpenID Connect Core 1.0, section 3.1; PKCE, RFC 7636).

The only user of authlib, joserfc and requests.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from patchline import config
from patchline.console.provider import Begun, LogInRefused, Person, ProviderAway
from patchline.console.roles import Role
from patchline.protocol.errors import SetupError

_TIMEOUT_S = 5.0
_LEEWAY_S = 120  # between the clocks of the provider and of the console
_KEPT_S = 3_600.0  # of the provider's description
# Signatures that need a secret of the provider: a key that everybody knows must not make one.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
_BACK = "/oidc/back"


class OpenIdProvider:
    """An OpenID provider: see `Provider`. Thread-safe.

    Args:
        settings: how it is reached, and what its groups may do.
        clock: the wall clock, in seconds.

    Raises:
        SetupError: the file with the client's secret cannot be read.
    """

    def __init__(self, settings: config.Oidc, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._secret = _first_line(settings.client_secret_file)
        self._lock = threading.Lock()
        self._described: tuple[float, dict[str, Any]] | None = None
        self._keys: KeySet | None = None

    def begin(self) -> Begun:
        """Begin a log-in. Raises ProviderAway."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        with self._client() as client:
            url, _ = client.create_authorization_url(
                self._endpoint("authorization_endpoint"), state=state, nonce=nonce, code_verifier=verifier
            )
        return Begun(url, state, nonce, verifier)

    def finish(self, begun: Begun, state: str, code: str, error: str) -> Person:
        """Return who has logged in. See `Provider`."""
        if not secrets.compare_digest(begun.state.encode(), state.encode(errors="replace")):
            raise LogInRefused("the answer belongs to another log-in")
        if error or not code:
            raise LogInRefused(f"the provider says: {error[:100] or 'nothing'}")
        token = self._token(begun, code)
        claims = self._claims(token, begun.nonce)
        if not {self._settings.name_claim, self._settings.role_claim} <= claims.keys():
            claims = self._more(token, claims["sub"]) | claims
        return self._person(claims)

    def end_url(self) -> str | None:
        """Return the page that ends the log-in at the provider (RP-Initiated Logout 1.0), or None if it has none."""
        page = self._description().get("end_session_endpoint")
        back = {
            "client_id": self._settings.client_id,
            "post_logout_redirect_uri": f"{self._settings.console_url}/login",
        }
        return f"{page}?{urlencode(back)}" if isinstance(page, str) else None

    def _client(self) -> OAuth2Session:
        client = OAuth2Session(
            self._settings.client_id,
            self._secret,
            scope=" ".join(("openid", *self._settings.scopes)),
            redirect_uri=self._settings.console_url + _BACK,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT_S,
        )
        client.verify = True if self._settings.ca_file is None else str(self._settings.ca_file)
        return client

    def _token(self, begun: Begun, code: str) -> dict[str, Any]:
        endpoint = self._endpoint("token_endpoint")
        try:
            with self._client() as client:
                token = client.fetch_token(
                    endpoint, grant_type="authorization_code", code=code, code_verifier=begun.verifier
                )
        except requests.RequestException as error:
            raise ProviderAway(f"{endpoint}: {_short(error)}") from error
        except (AuthlibBaseError, ValueError) as error:
            raise LogInRefused(f"the provider refuses the code: {_short(error)}") from error
        if not isinstance(token.get("id_token"), str):
            raise LogInRefused("the provider has sent no ID token")
        return dict(token)

    def _claims(self, token: dict[str, Any], nonce: str) -> dict[str, Any]:
        """Return what a token says, if it was signed by the provider, for this console, in this log-in."""
        decoded = self._decoded(token["id_token"])
        settings = self._settings
        options: dict[str, Any] = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client_id},
        }
        params = {"nonce": nonce, "client_id": settings.client_id, "access_token": token.get("access_token")}
        claims = CodeIDToken(decoded.claims, decoded.header, options, params)
        try:
            claims.validate(now=int(self._clock()), leeway=_LEEWAY_S)
        except JoseError as error:
            raise LogInRefused(f"the ID token does not hold: {_short(error)}") from error
        return dict(claims)

    def _decoded(self, text: str) -> jwt.Token:
        """Decode a token. Keys are asked for again if one does not fit: providers change theirs."""
        for again in (False, True):
            try:
                return jwt.decode(text, self._key_set(again), algorithms=_ALGORITHMS)
            except (JoseError, ValueError) as error:
                if again:
                    raise LogInRefused(f"the ID token does not hold: {_short(error)}") from error
        raise AssertionError("the loop returns or raises")

    def _more(self, token: dict[str, Any], subject: str) -> dict[str, Any]:
        """Return what the provider says of the person beyond the token (Core, section 5.3)."""
        if "userinfo_endpoint" not in self._description():
            return {}
        said = self._get(self._endpoint("userinfo_endpoint"), {"authorization": f"Bearer {token.get('access_token')}"})
        return said if said.get("sub") == subject else {}

    def _person(self, claims: dict[str, Any]) -> Person:
        name, groups = claims.get(self._settings.name_claim), claims.get(self._settings.role_claim, [])
        if not isinstance(name, str) or not name:
            raise LogInRefused(f"the provider does not say {self._settings.name_claim}")
        words = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        found = [Role(self._settings.roles[word]) for word in words if word in self._settings.roles]
        if self._settings.default_role is not None:
            found.append(Role(self._settings.default_role))
        if not found:
            raise LogInRefused(f"{name} has no group that may use the console")
        return Person(f"{self._settings.issuer} {claims['sub']}", name, max(found, key=list(Role).index))

    def _endpoint(self, name: str) -> str:
        url = self._description().get(name)
        if not isinstance(url, str):
            raise ProviderAway(f"{self._settings.issuer}: says no {name}")
        return url

    def _description(self) -> dict[str, Any]:
        """Return what the provider says of itself (OpenID Connect Discovery 1.0, section 4)."""
        with self._lock:
            if self._described is not None and self._clock() - self._described[0] < _KEPT_S:
                return self._described[1]
            said = self._get(f"{self._settings.issuer}/.well-known/openid-configuration")
            if str(said.get("issuer", "")).rstrip("/") != self._settings.issuer:
                raise ProviderAway(
                    f"{self._settings.issuer}: calls itself {said.get('issuer')!r}; see console.oidc.issuer"
                )
            self._described = (self._clock(), said)
            return said

    def _key_set(self, again: bool) -> KeySet:
        url = self._endpoint("jwks_uri")
        with self._lock:
            if self._keys is None or again:
                said: Any = self._get(url)
                self._keys = KeySet.import_key_set(said)
            return self._keys

    def _get(self, url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        verify = True if self._settings.ca_file is None else str(self._settings.ca_file)
        try:
            answer = requests.get(url, headers=headers, timeout=_TIMEOUT_S, verify=verify)
            answer.raise_for_status()
            said = answer.json()
        except (requests.RequestException, ValueError, OSError) as error:
            raise ProviderAway(f"{url}: {_short(error)}") from error
        if not isinstance(said, dict):
            raise ProviderAway(f"{url}: says no JSON object")
        return said


def _first_line(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, UnicodeError, IndexError) as error:
        raise SetupError(f"{file}: has no secret in its first line ({error}); see console.oidc") from error


def _short(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
