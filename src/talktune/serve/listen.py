"""The address that a server listens on.

Open it when a port is taken or an address cannot be used.
"""

import socket

from talktune.errors import UserError


def listen(address: str, port: int) -> socket.socket:
    """A socket bound to the address; UserError when it cannot be used."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio sends small pieces at once; without, each answer may wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise UserError(f"--host {address} --port {port}: cannot listen there ({error.strerror}).") from error
    return listener


def shown(listener: socket.socket) -> str:
    """The base URL of a listening socket."""
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
