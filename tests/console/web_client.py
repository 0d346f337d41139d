"""A person's HTTP client."""

import httpx2 as httpx

# The console closes a connection after 5 s without a request, and httpx keeps one as long: a request in that moment has
# no answer. A browser sends it again.
_KEPT_S = 1.0


def web_client(address):
    """Return a client, which follows redirects. Use it as a context manager."""
    limits = httpx.Limits(keepalive_expiry=_KEPT_S)
    return httpx.Client(base_url=address, timeout=30, follow_redirects=True, limits=limits)
