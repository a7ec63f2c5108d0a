"""Names of hosts: which of them can mean this machine alone."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """Tell whether a name, or an address without brackets, reaches this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    import ipaddress  # every command starts by importing this module; few ask

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
