"""The token that a request shows, in HTTP's header or gRPC's metadata of the name `authorization` (RFC 6750). Pure."""

from __future__ import annotations

import hmac


def shows(authorization: bytes, token: bytes) -> bool:
    """Whether it says `Bearer <token>`, the scheme in any case (RFC 9110, 11.1). Its time tells nothing of the token."""
    scheme, _, shown = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(b" "), token)
