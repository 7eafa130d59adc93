"""What the server refuses before gradio sees it, and what it forbids the browser.

A visitor sends text and nothing else. gradio would store uploads, and would fetch an address of the web that is given
in place of a file; the page needs neither. The browser is told to load nothing from other hosts.
"""

from __future__ import annotations

import json
from typing import Any

REFUSED = ("/upload", "/file=http", "/proxy=", "/component_server")  # parts of gradio's paths
# gradio's own scripts are inline, and it compiles some: `unsafe` is about those. Nothing comes from other hosts, and
# nothing goes there.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; base-uri 'self'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Guard:
    """ASGI middleware.

    Args:
        app: gradio's.
        max_bytes: largest request.
    """

    def __init__(self, app: Any, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on to gradio."""
        from starlette.responses import PlainTextResponse  # comes with gradio

        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = None
        if any(part in scope["path"] for part in REFUSED):
            refusal = PlainTextResponse("not found", 404)
        elif scope["method"] == "POST":
            body = await self._body(receive)
            if body is None:
                refusal = PlainTextResponse("the request is too large", 413)
            elif not holds_text_only(body):
                refusal = PlainTextResponse("expected text", 400)
            else:
                receive = _again(body, receive)
        await (refusal or self.app)(scope, receive, _with_headers(send))

    async def _body(self, receive: Any) -> bytes | None:
        """Read the body of a request; None if it is too large."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                return None
        return body


def holds_text_only(body: bytes) -> bool:
    """Return True unless a request gives a component anything but text; gradio takes objects for files.

    Example:
        >>> holds_text_only(b'{"data": ["MKT", null]}'), holds_text_only(b'{"data": [{"path": "/etc/passwd"}]}')
        (True, False)
    """
    try:
        request = json.loads(body or b"{}")
    except (ValueError, RecursionError):  # the latter of `[[[[...`
        return False
    data = request.get("data") if isinstance(request, dict) else request
    return data is None or (isinstance(data, list) and all(item is None or isinstance(item, str) for item in data))


def _again(body: bytes, receive: Any) -> Any:
    """Return a function that receives a body that was read, then what follows."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return messages.pop() if messages else await receive()

    return receive_again


def _with_headers(send: Any) -> Any:
    from starlette.datastructures import MutableHeaders

    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return send_with_headers
