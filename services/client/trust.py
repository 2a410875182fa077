"""What gRPC says when a client and a server do not trust each other, for people."""

from __future__ import annotations

import re

_VERIFY = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([\w' -]+)")


def trust_problem(details: str, target: str) -> str | None:
    """Why a client does not take a server for the one it wants; None when that is not what went wrong."""
    if "WRONG_VERSION_NUMBER" in details:
        return f"{target} does not speak TLS; leave the TLS settings out if it is on this machine"
    if "Hostname Verification Check failed" in details or "is not in peer certificate" in details:
        return f"the certificate of {target} is for another host: use a name that it is for"
    if "andshake failed" in details and "certificate" in details.lower():
        why = _VERIFY.search(details)
        return (
            f"the certificate of {target} is not trusted ({why[1] if why else 'its signature is wrong'}); give the "
            "file of its authority: --ca-file, EIF_CLIENT_CA_FILE"
        )
    return None


def lost_because(cause: str) -> str:
    """The cause of a lost connection, with what it may mean."""
    if cause == "Socket closed":
        return f"{cause}; it may want TLS (--tls, --ca-file), or a certificate of this client (--certificate-file)"
    return cause
