"""Who runs this process."""

import getpass


def user() -> str:
    """The login name; "unknown" for a container's user, who need not have one."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
