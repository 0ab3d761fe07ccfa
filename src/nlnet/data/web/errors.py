"""What goes wrong with web servers and object stores, in one line of words."""

import errno
import re
import socket
import ssl
from http import HTTPStatus

_UNKNOWN_ISSUER = (18, 19, 20, 21)  # OpenSSL's codes
_CERTIFICATE = re.compile(r"InvalidCertificate\(\W*(\w+)")
_STATUS = re.compile(r"status code: (\d{3})")
_GONE, _AGAIN, _BEYOND = (404, 410), (408, 429), 416
_MEANS = {
    400: "it does not understand the request",
    401: "it asks who you are; give a user, a token or credentials",
    403: "it refuses access; a signature or token may have expired, or is for something else",
    404: "there is no such object",
    405: "it does not allow such requests; what reads shards is GET",
    407: "the proxy asks who you are",
    410: "there is no such object any more",
    429: "too many requests",
}


class WebError(OSError):
    """An answer that is of no use, or none.

    Args:
        message: in words.
        may_pass: whether asking again makes sense.
        status: of the answer, where there was one.
        unreachable: whether no connection came about: nobody listens there, or the name is not known.
    """

    def __init__(
        self, message: str, *, may_pass: bool = True, status: int | None = None, unreachable: bool = False
    ) -> None:
        super().__init__(message)
        self.may_pass, self.status, self.unreachable = may_pass, status, unreachable


def refused(status: int) -> OSError | EOFError:
    """What an answer other than 200 and 206 means."""
    try:
        said = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        said = str(status)
    if status in _GONE:
        return FileNotFoundError(f"{_MEANS[status]} ({said})")
    if status == _BEYOND:
        return EOFError("the object ends before the wanted bytes")
    meaning = f": {_MEANS[status]}" if status in _MEANS else ""
    may_pass = status >= 500 or status in _AGAIN
    return WebError(f"the server answered {said}{meaning}", may_pass=may_pass, status=status)


def described(error: Exception) -> WebError:
    """A failure of a connection."""
    if isinstance(error, WebError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        known = error.verify_code in _UNKNOWN_ISSUER
        return _untrusted("UnknownIssuer" if known else error.verify_message)
    if isinstance(error, TimeoutError):
        return WebError(f"timed out ({error})")
    if isinstance(error, ValueError):  # a URL or a header that cannot be
        return WebError(f"no answer that can be read ({error})", may_pass=False)
    if isinstance(error, socket.gaierror):
        return WebError(f"its name is not known here ({error.strerror})", unreachable=True)
    closed = isinstance(error, ConnectionRefusedError)
    if closed or getattr(error, "errno", None) in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return WebError(f"nobody answers there ({error})", unreachable=True)
    return WebError(f"the connection broke ({str(error) or type(error).__name__})")


def of_store(error: Exception) -> OSError | EOFError:
    """A failure of an object store's client, whose own words run over many lines."""
    if isinstance(error, WebError | EOFError):
        return error
    text = str(error)
    if status := _STATUS.search(text):
        return refused(int(status[1]))
    if isinstance(error, FileNotFoundError):
        return refused(404) if "\n" in text else error
    if reason := _CERTIFICATE.search(text):
        return _untrusted(reason[1])
    first = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
    if "kind: Connect" in text:
        unknown = "dns error" in text
        return WebError("its name is not known here" if unknown else "nobody answers there", unreachable=True)
    if "kind: Timeout" in text:
        return WebError(f"timed out ({first})")
    if "kind: Interrupted" in text:
        return WebError(f"the connection broke ({first})")
    return WebError(first, may_pass=type(error).__name__ == "GenericError" or isinstance(error, TimeoutError))


def _untrusted(reason: str) -> WebError:
    return WebError(f"its certificate is not trusted ({reason})", may_pass=False)
