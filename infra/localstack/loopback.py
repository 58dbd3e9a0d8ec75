"""Keeps a process on this machine: it listens on 127.0.0.1 alone and connects nowhere else.

LocalStack ignores the host of ``GATEWAY_LISTEN``, and some of its services would fetch a program
or a list when first used. Here the first becomes a loopback address, and the second an error that
says what was tried.
"""

import ipaddress
import socket
from typing import Any

EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is replaced
INTERNET = (socket.AF_INET, socket.AF_INET6)


class OutsideError(ConnectionRefusedError):
    """Something tried to leave this machine."""


def stay() -> None:
    """Binds every socket of this process to loopback, and refuses connections elsewhere."""
    bind, connect, connect_ex = (
        socket.socket.bind,
        socket.socket.connect,
        socket.socket.connect_ex,
    )

    def bind_here(self: socket.socket, address: Any) -> None:
        bind(self, here(self.family, address))

    def connect_here(self: socket.socket, address: Any) -> None:
        refuse_outside(self.family, address)
        connect(self, address)

    def connect_ex_here(self: socket.socket, address: Any) -> int:
        refuse_outside(self.family, address)
        return connect_ex(self, address)

    setattr(socket.socket, "bind", bind_here)  # noqa: B010 - mypy knows methods as constant
    setattr(socket.socket, "connect", connect_here)  # noqa: B010
    setattr(socket.socket, "connect_ex", connect_ex_here)  # noqa: B010


def here(family: int, address: Any) -> Any:
    """The address to bind instead: the same port, on this machine alone."""
    if family not in INTERNET or not isinstance(address, tuple):
        return address
    host, *rest = address
    local = EVERYWHERE.get(str(host), host)
    if not _is_here(str(local)):
        raise OutsideError(f"expected to listen on this machine alone, not on {host}")
    return (local, *rest)


def refuse_outside(family: int, address: Any) -> None:
    """Refuses an address that is not this machine's.

    Raises:
        OutsideError: It is not.
    """
    if family in INTERNET and isinstance(address, tuple) and not _is_here(str(address[0])):
        raise OutsideError(
            f"the embedded cloud connects to this machine alone, not to {address[0]}: "
            "the service that tried cannot be used here"
        )


def _is_here(host: str) -> bool:
    if host in {"", "localhost", "0.0.0.0", "::"}:  # noqa: S104 - they mean this machine
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
