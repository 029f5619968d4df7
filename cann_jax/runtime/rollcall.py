"""A roll call before JAX joins the processes: all report to process 0, and each learns which are missing.

JAX's own client aborts with a stack trace if one is missing, and does not say which.
"""

import socket
import time

from cann_jax.files.errors import AbsentError, InputError

ALL = "all"
RETRY_SECONDS = 0.2


def call(address: str, processes: int, process: int, patience: int) -> None:
    """Wait until all processes have reported to process 0 at ``address``, ``host:port``.

    The port is free again afterwards, for JAX. Up to ``patience`` seconds are waited for process 0, and then
    for the others.

    Raises:
        AbsentError: Process 0 cannot be reached, or others are missing; it says which.
        InputError: The address is not ``host:port``, or its port is taken.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"distributed.coordinator {address!r} must be host:port, the address of process 0")
    if process == 0:
        missing = _gather(int(port), processes, patience)
    else:
        missing = _report((host.strip("[]"), int(port)), process, patience)
    if missing != ALL:
        raise AbsentError(
            f"not all processes joined within {patience} s at {address}; missing: process "
            f"{missing}; start all of them, or raise distributed.timeout_seconds"
        )


def _gather(port: int, processes: int, patience: int) -> str:
    """Collect the reports on process 0; answer all, and return, ``ALL`` or the processes that are missing."""
    reported: dict[int, socket.socket] = {}
    deadline = time.monotonic() + patience
    with _listening(port) as server:
        while len(reported) < processes - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                caller, _ = server.accept()
                caller.settimeout(2)
                reported[int(caller.makefile().readline())] = caller
            except (OSError, ValueError):  # nobody reported in time, or something else connected
                continue
    absent = [str(index) for index in range(1, processes) if index not in reported]
    answer = ", ".join(absent) or ALL
    for caller in reported.values():
        with caller:
            caller.sendall(f"{answer}\n".encode())
    return answer


def _listening(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"distributed.coordinator: port {port} cannot be opened ({error.strerror}); choose another port"
        ) from None


def _report(address: tuple[str, int], process: int, patience: int) -> str:
    """Report to process 0 and return its answer."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection(address, timeout=2) as caller:
                caller.sendall(f"{process}\n".encode())
                caller.settimeout(patience)
                if answer := caller.makefile().readline().strip():
                    return answer
                reason = "the connection was closed"
        except OSError as error:
            reason = str(error)
        if time.monotonic() > deadline:
            raise AbsentError(
                f"distributed.coordinator {address[0]}:{address[1]} cannot be reached within {patience} s "
                f"({reason}); check host and port, and that process 0 runs"
            )
        time.sleep(RETRY_SECONDS)
