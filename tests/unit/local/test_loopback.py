"""LocalStack's process listens on this machine alone, and connects nowhere else."""

import socket

import pytest

from infra.localstack.loopback import OutsideError, here, refuse_outside

IPV4, IPV6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@pytest.mark.parametrize(
    ("family", "asked", "bound"),
    [
        (IPV4, ("", 4566), ("127.0.0.1", 4566)),
        (IPV4, ("0.0.0.0", 4566), ("127.0.0.1", 4566)),  # noqa: S104 - what is replaced
        (IPV4, ("127.0.0.1", 4566), ("127.0.0.1", 4566)),
        (IPV4, ("localhost", 0), ("localhost", 0)),
        (IPV6, ("::", 4566, 0, 0), ("::1", 4566, 0, 0)),
        (UNIX, "/run/socket", "/run/socket"),
    ],
    ids=["any", "every interface", "loopback", "by name", "every interface of IPv6", "a path"],
)
def test_every_interface_becomes_loopback(family: int, asked: object, bound: object) -> None:
    assert here(family, asked) == bound


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.test"])
def test_another_interface_is_refused(host: str) -> None:
    family = IPV6 if ":" in host else IPV4

    with pytest.raises(OutsideError, match=host):
        here(family, (host, 4566))


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (IPV4, ("127.0.0.1", 80)),
        (IPV4, ("127.0.0.53", 53)),
        (IPV4, ("localhost", 80)),
        (IPV6, ("::1", 80, 0, 0)),
        (UNIX, "/var/run/docker.sock"),
    ],
)
def test_connections_to_this_machine_are_made(family: int, address: object) -> None:
    refuse_outside(family, address)


@pytest.mark.parametrize(
    ("family", "host"),
    [(IPV4, "192.0.2.1"), (IPV4, "169.254.169.254"), (IPV6, "2001:db8::1"), (IPV4, "example.test")],
)
def test_connections_elsewhere_are_refused_by_name(family: int, host: str) -> None:
    with pytest.raises(OutsideError, match=rf"this machine alone, not to {host}"):
        refuse_outside(family, (host, 443))
