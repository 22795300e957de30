"""The command `didsim explore`: a port of this machine, the server behind it, and the browser before it."""

import errno
import socket
import threading
import webbrowser

from didsim import _checks
from didsim._command_line import say

_NEEDED = "the explorer needs Starlette and uvicorn: pip install 'didsim[explorer]'"


def serve(host: str, port: int, browser: bool) -> None:
    """Serve the explorer until Ctrl-C.

    Args:
        host: the address to listen on; 127.0.0.1 is reached from this machine alone.
        port: the port; 0 takes a free one.
        browser: whether to open the page in the browser.

    Raises:
        ValueError: the extra `explorer` is not installed, or nothing can listen there.
    """
    listening = listen(host, port)
    with listening:
        try:
            import uvicorn

            from didsim.explorer.server import application, warm_up
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
                raise
            raise ValueError(_NEEDED) from None
        # Made before the address is told, so that the first page does not wait for it.
        server = uvicorn.Server(uvicorn.Config(application(), log_level="warning"))
        url = address(listening)
        say(f"The explorer is at {url} (Ctrl-C ends it)")
        threading.Thread(target=warm_up, daemon=True).start()
        if browser:
            # The port takes connections already, and answers them when the server runs.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: the port is in use or may not be used, or the host is no address of this machine.
    """
    port = _checks.count("port", port, 0)
    if port > 65535:
        raise ValueError(f"`port` must be at most 65535; got {port}")
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"`port` {port} of {host} is in use; --port {port + 1} takes another, --port 0 any free one"
            ) from None
        raise ValueError(f"`host` {host}, `port` {port}: {error.strerror or error}") from None


def address(listening: socket.socket) -> str:
    """The address of a listening socket, for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
