"""What stands in a URL: whose address it is, through which proxy it is reached, and who asks."""

import base64
import ipaddress
import socket
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_for(parts: SplitResult) -> SplitResult | None:
    """As the environment says: HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""
    found = getproxies()
    address = found.get(parts.scheme) or found.get("all")
    if not address or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urlsplit(address if "://" in address else f"http://{address}")


def user_header(parts: SplitResult, header: str = "Authorization") -> dict[str, str]:
    """The user and the password of a URL as a header."""
    if parts.username is None:
        return {}
    both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(both.encode()).decode()}"}


def same_server(a: SplitResult, b: SplitResult) -> bool:
    """Whether two URLs are of one server."""
    return (a.scheme, a.hostname, a.port) == (b.scheme, b.hostname, b.port)


def is_public(parts: SplitResult) -> bool:
    """Whether a server has public addresses alone; behind a proxy also where its name is not known here."""
    host, port = parts.hostname or "", parts.port or 80
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return proxy_for(parts) is not None
    return all(is_global(str(address[0])) for *_, address in found)


def is_global(address: str) -> bool:
    """Whether an address is one of the internet: neither this machine's nor a private network's."""
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_global
