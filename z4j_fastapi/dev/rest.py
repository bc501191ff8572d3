"""A small client of the brain's REST API: session cookie, CSRF header, JSON in and out.

`urllib` does for local work, and keeps `dev` free of dependencies. Proxies are never used: the
brain that this talks to is on the loopback address.
"""

from __future__ import annotations

import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from z4j_fastapi.errors import Z4JError

if TYPE_CHECKING:
    from collections.abc import Mapping

API_PREFIX = "/api/v1"

_CSRF_COOKIE = "z4j_csrf"
_TIMEOUT_SECONDS = 30.0
_UNAUTHENTICATED = 401


class BrainApiError(Z4JError):
    """The brain refused a request.

    Args:
        method: HTTP method of the request.
        path: Its path below the API's prefix.
        status: HTTP status of the answer.
        body: The answer, as text.
        retry_after_seconds: What the answer's `Retry-After` says, if anything.
    """

    code = "brain_api_error"

    def __init__(
        self,
        method: str,
        path: str,
        *,
        status: int,
        body: str,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(
            f"{method} {path}: HTTP {status}: {body[:500]}",
            details={"method": method, "path": path, "status": status},
        )
        self.status = status
        self.body = body
        self.retry_after_seconds = retry_after_seconds


class BrainRest:
    """One signed-in user of one brain. Not thread-safe.

    Args:
        base_url: `http://host:port` of the brain, without a path.
        email: The user's address.
        password: The user's password.
    """

    def __init__(self, base_url: str, *, email: str, password: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._email = email
        self._password = password
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(self._cookies),
        )

    def login(self) -> None:
        """Sign in; done by itself when a request finds no session.

        Raises:
            BrainApiError: The brain refused.
            OSError: The brain cannot be reached.
        """
        self._cookies.clear()
        self._send("POST", "/auth/login", {"email": self._email, "password": self._password})

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        """Read something.

        Args:
            path: Below the API's prefix, with a leading slash.
            query: Query parameters; those that are None are left out.

        Returns:
            The parsed answer.

        Raises:
            BrainApiError: The brain refused.
            OSError: The brain cannot be reached.
        """
        given = {key: value for key, value in (query or {}).items() if value is not None}
        suffix = f"?{urllib.parse.urlencode(given)}" if given else ""
        return self._request("GET", path + suffix, None)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Create or order something.

        Args:
            path: Below the API's prefix, with a leading slash.
            body: Sent as JSON; the brain takes 8 KiB by default.

        Returns:
            The parsed answer.

        Raises:
            BrainApiError: The brain refused.
            OSError: The brain cannot be reached.
        """
        return self._request("POST", path, body)

    def delete(self, path: str) -> Any:
        """Remove or revoke something.

        Raises:
            BrainApiError: The brain refused.
            OSError: The brain cannot be reached.
        """
        return self._request("DELETE", path, None)

    def _request(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        if not self._csrf_token():
            self.login()
        try:
            return self._send(method, path, body)
        except BrainApiError as error:
            if error.status != _UNAUTHENTICATED:
                raise
        self.login()  # the session is over; a refused request did nothing, so it may be repeated
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        headers = {"Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        csrf_token = self._csrf_token()
        if csrf_token:
            headers["X-CSRF-Token"] = csrf_token
        request = urllib.request.Request(  # noqa: S310 - the brain's own address
            self._base_url + API_PREFIX + path, data=data, headers=headers, method=method
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                retry_after = error.headers.get("Retry-After", "")
                raise BrainApiError(
                    method,
                    path,
                    status=error.code,
                    body=error.read().decode(errors="replace"),
                    retry_after_seconds=float(retry_after) if retry_after.isdigit() else None,
                ) from None
        return json.loads(text) if text else None

    def _csrf_token(self) -> str:
        for cookie in self._cookies:
            if cookie.name == _CSRF_COOKIE:
                return cookie.value or ""
        return ""
