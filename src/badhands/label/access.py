"""Where the page is served and what to type to get there, checked before anything is opened."""

import secrets
import socket
from collections.abc import Iterator

from badhands.label.guard import LOOPBACK, Access

EVERYWHERE = ("0.0.0.0", "::")


def checked_port(value: object) -> int:
    """A TCP port; raises ValueError."""
    if type(value) is not int or not 1 <= value <= 65535:
        raise ValueError(f"port={value} is no port: use a number from 1 to 65535, e.g. port=8765")
    return value


def checked_token(value: object) -> str | None:
    """The token as text; raises ValueError."""
    if value is not None and not isinstance(value, str):
        raise ValueError("token= is read as a number or a list: take one with a letter in it, of 16 characters or more")
    return value


def checked_hosts(value: object) -> tuple[str, ...]:
    """Further host names, without ports; raises ValueError."""
    if (
        isinstance(value, str)
        or not isinstance(value, list | tuple)
        or not all(isinstance(name, str) for name in value)
    ):
        raise ValueError(
            f"hosts={value} is no list of names: write hosts=[{value if isinstance(value, str) else 'NAME'}]"
        )
    for name in value:
        if not name or "/" in name or name.count(":") == 1:
            raise ValueError(f"hosts=[{name}]: give the name alone, without http:// and without a port")
    return tuple(value)


def access_for(host: str, token: str | None, hosts: tuple[str, ...]) -> Access:
    """Beyond the loopback interface a token is needed; one is made where none is given."""
    names, everywhere = [*LOOPBACK, *hosts], host in EVERYWHERE
    if everywhere:
        names += [socket.gethostname(), f"{socket.gethostname()}.local"]
    elif host not in LOOPBACK:
        names.append(host)
    if token is None and (hosts or host not in LOOPBACK):
        token = secrets.token_urlsafe(24)
    return Access(tuple(dict.fromkeys(name.lower() for name in names)), token, addresses=everywhere)


def addresses(host: str, port: int, token: str | None, hosts: tuple[str, ...] = ()) -> list[str]:
    """What to type into a browser: on this machine first, then elsewhere."""
    names = [host]
    if host in EVERYWHERE:
        names = ["::1" if host == "::" else "127.0.0.1", *_own_addresses(ipv6=host == "::"), *hosts]
    query = f"?token={token}" if token else ""
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/{query}" for name in dict.fromkeys(names)]


def check_free(host: str, port: int) -> None:
    """Raises ValueError: the port is taken, or the address is not this machine's."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"cannot serve at {host}:{port} ({error.strerror}): choose another port=..., or host=127.0.0.1 for this "
            "machine alone, host=0.0.0.0 for all its addresses"
        ) from None


def _own_addresses(ipv6: bool) -> Iterator[str]:
    """Addresses under which other machines reach this one, the one of the default route first; nothing is sent."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1" if ipv6 else "192.0.2.1", 9))  # reserved for documentation (RFC 3849, 5737)
            yield probe.getsockname()[0]
    except OSError:
        pass  # no route
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, family)
    except OSError:
        return
    for info in found:
        name = str(info[4][0])
        if not name.startswith("127.") and name != "::1":
            yield name
