"""What goes wrong with a web server, in words."""

import ssl

_UNKNOWN_ISSUER = (18, 19, 20, 21)  # OpenSSL's codes


class WebError(OSError):
    """An answer that is of no use, or none; `may_pass` says whether asking again makes sense."""

    def __init__(self, message: str, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def described(error: Exception) -> WebError:
    """A failure in words."""
    if isinstance(error, WebError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        known = error.verify_code in _UNKNOWN_ISSUER
        reason = "UnknownIssuer" if known else error.verify_message
        return WebError(f"its certificate is not trusted ({reason})", may_pass=False)
    if isinstance(error, TimeoutError):
        return WebError(f"timed out ({error})")
    if isinstance(error, ValueError):  # a URL or a header that cannot be
        return WebError(f"no answer that can be read ({error})", may_pass=False)
    return WebError(f"the connection broke ({str(error) or type(error).__name__})")
