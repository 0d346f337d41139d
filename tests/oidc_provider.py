"""An OpenID provider for tests: `python -m tests.oidc_provider PORT CONSOLE_URL`.

Authlib's server judges what the console sends: the client's secret, the code, PKCE. People log in by a field of the
form. A test changes it by POST to /test: keys are rotated, the clock is moved, tokens are spoilt.
"""

import os
import sys
import time

import flask
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from joserfc.jwk import RSAKey

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "true"  # on loopback
CLIENT, SECRET = "console", "a secret of the client"
PEOPLE = {
    "mei": {"preferred_username": "mei", "groups": ["quality", "everybody"]},
    "otto": {"preferred_username": "otto", "groups": ["everybody"]},
}
app = flask.Flask(__name__)
state = {"number": 0, "skew_s": 0, "claims": {}, "codes": {}, "tokens": {}, "in_token": True}


class Client(ClientMixin):
    def get_client_id(self):
        return CLIENT

    def get_default_redirect_uri(self):
        return None

    def get_allowed_scope(self, scope):
        return scope

    def check_redirect_uri(self, redirect_uri):
        return redirect_uri == sys.argv[2] + "/oidc/back"

    def check_client_secret(self, client_secret):
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_basic"

    def check_response_type(self, response_type):
        return response_type == "code"

    def check_grant_type(self, grant_type):
        return grant_type == "authorization_code"


class Code:
    def __init__(self, code, person, payload):
        self.code, self.person, self.redirect_uri, self.scope = code, person, payload.redirect_uri, payload.scope
        self.nonce = payload.data.get("nonce")
        self.code_challenge = payload.data.get("code_challenge")
        self.code_challenge_method = payload.data.get("code_challenge_method")

    def get_redirect_uri(self):
        return self.redirect_uri

    def get_scope(self):
        return self.scope

    def get_nonce(self):
        return self.nonce

    def get_auth_time(self):
        return int(time.time())

    def get_acr(self):
        return None

    def get_amr(self):
        return None


class Grant(grants.AuthorizationCodeGrant):
    def save_authorization_code(self, code, request):
        state["codes"][code] = Code(code, request.user, request.payload)

    def query_authorization_code(self, code, client):
        return state["codes"].get(code)

    def delete_authorization_code(self, authorization_code):
        del state["codes"][authorization_code.code]

    def authenticate_user(self, authorization_code):
        return authorization_code.person


class Tokens(OpenIDCode):
    def exists_nonce(self, nonce, request):
        return False

    def resolve_client_private_key(self, client):
        return state["key"]

    def get_client_algorithm(self, client):
        return "RS256"

    def get_encode_header(self, client):
        return {"alg": "RS256", "kid": state["key"].kid}

    def get_compatible_claims(self, request):
        now = int(time.time()) + state["skew_s"]
        return {"iss": _url(), "aud": [CLIENT], "iat": now, "exp": now + 600}

    def get_authorization_code_claims(self, authorization_code):
        return super().get_authorization_code_claims(authorization_code) | state["claims"]

    def generate_user_info(self, user, scope):
        return {"sub": f"subject-of-{user}"} | (PEOPLE[user] if state["in_token"] else {})


def _url():
    return f"http://127.0.0.1:{sys.argv[1]}"


def rotate():
    state["number"] += 1
    state["key"] = RSAKey.generate_key(2048, {"kid": f"key-{state['number']}", "use": "sig", "alg": "RS256"})


def save_token(token, request):
    state["tokens"][token["access_token"]] = request.user


server = AuthorizationServer(app, query_client=lambda name: Client() if name == CLIENT else None, save_token=save_token)
server.register_grant(Grant, [Tokens(), CodeChallenge(required=True)])


@app.get("/.well-known/openid-configuration")
def describe():
    names = {"authorization": "authorize", "token": "token", "userinfo": "userinfo", "end_session": "logout"}
    endpoints = {f"{name}_endpoint": f"{_url()}/{path}" for name, path in names.items()}
    return {"issuer": _url(), "jwks_uri": f"{_url()}/keys"} | endpoints


@app.get("/keys")
def keys():
    return {"keys": [state["key"].as_dict(private=False)]}


@app.route("/authorize", methods=["GET", "POST"])
def authorize():
    if flask.request.method == "GET":
        return '<form method="post"><label>Who <input name="who"></label><button>Go</button></form>'
    who = flask.request.form["who"]
    grant = server.get_consent_grant(end_user=who)
    return server.create_authorization_response(grant_user=who if who in PEOPLE else None, grant=grant)


@app.post("/token")
def token():
    return server.create_token_response()


@app.get("/userinfo")
def userinfo():
    who = state["tokens"][flask.request.headers["authorization"].removeprefix("Bearer ")]
    return {"sub": f"subject-of-{who}"} | PEOPLE[who]


@app.get("/logout")
def logout():
    return f"logged out; back to {flask.request.args['post_logout_redirect_uri']}"


@app.post("/test")
def change():
    wanted = flask.request.get_json()
    if wanted.pop("rotate", False):
        rotate()
    for who, claims in wanted.pop("people", {}).items():
        PEOPLE[who] = PEOPLE.get(who, {}) | claims
    state.update(wanted)
    return ""


if __name__ == "__main__":
    rotate()
    app.run(port=int(sys.argv[1]))
