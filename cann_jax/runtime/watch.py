"""The watch over the processes of a run: if one is killed, hangs or fails, the others end with one line.

Collectives would wait for it, and JAX's own client notices late and aborts with a stack trace (its callback
for this ends in ``std::bad_cast`` in jaxlib 0.10.2). Here every process keeps a connection to process 0: its
end shows at once, silence after a time, and process 0 tells the others what it sees.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

import jax
import numpy as np

from cann_jax.files.errors import AbsentError, Preempted

BEAT_SECONDS = 1
CONNECT_SECONDS = 10
GRACE_SECONDS = 5  # for processes that fail alike to report it themselves
LEAVE_SECONDS = 3  # less: the first of them must be gone before the others end, or JAX aborts it
LAST_SECONDS = 0.5  # that the others go on: a launcher must see first with which status the lost one ended
BEAT, LEFT, FAILED = b"beat", b"left", b"failed"


class _State:  # of the process, as its end is
    watch: "Watch | None" = None


class Watch(threading.Thread):
    """A thread that ends this process if another is lost.

    Args:
        peers: Connections by process: on process 0 to all others, on these to process 0.
        patience: Seconds of silence after which a process counts as lost.
    """

    def __init__(self, peers: dict[int, Connection], patience: int) -> None:
        super().__init__(daemon=True)
        self.peers, self.patience, self.beat = peers, patience, min(BEAT_SECONDS, patience / 4)
        self.heard = dict.fromkeys(peers, time.monotonic())
        self.failed: dict[int, float] = {}
        self.over = threading.Event()
        self.stderr, self.nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)

    def run(self) -> None:
        """Listen and give signs of life until the watch is over."""
        said = before = time.monotonic()
        while self.peers and not self.over.is_set():
            ready = wait(list(self.peers.values()), self.beat)
            for index in [index for index, peer in self.peers.items() if peer in ready]:
                self._hear(index)
            now = time.monotonic()
            if now - said >= self.beat:
                self.tell(BEAT)
                said = now
            if now - before > self.patience / 2:  # this process was stopped, perhaps with the whole job
                self.heard = dict.fromkeys(self.peers, now)
            self._judge(now)
            before = now

    def tell(self, message: bytes) -> None:
        """Send a message to all peers; one that is gone is noticed when it is listened to."""
        for peer in list(self.peers.values()):
            with contextlib.suppress(OSError):
                peer.send_bytes(message)

    def leave(self, message: bytes) -> None:
        """End the watch on this process, and say why."""
        if not self.over.is_set():
            self.over.set()
            self.tell(message)

    def _hear(self, index: int) -> None:
        try:
            message = self.peers[index].recv_bytes(1000)
        except (EOFError, OSError):
            return self._lose(index, "failed" if index in self.failed else "is gone")
        self.heard[index] = time.monotonic()
        if message == LEFT:
            del self.peers[index]
        elif message == FAILED:
            self.failed[index] = time.monotonic()
        elif message != BEAT:
            self._end(message.decode())

    def _judge(self, now: float) -> None:
        for index in list(self.peers):
            if now - self.failed.get(index, now) > GRACE_SECONDS:
                self._lose(index, "failed")
            elif now - self.heard[index] > self.patience:
                self._lose(index, f"has not answered for {self.patience} s")

    def _lose(self, index: int, how: str) -> None:
        text = f"process {index} {how}; see its log, and start all processes again to continue"
        del self.peers[index]
        if index != 0:  # without process 0, JAX's client would end this one by SIGABRT
            time.sleep(LAST_SECONDS)
        if not self.over.is_set():
            self.tell(text.encode())
            self._end(text)

    def _end(self, text: str) -> None:
        if self.over.is_set():  # this process is about to end by itself
            return
        # First of all, and with nothing to open: when process 0 is gone, JAX's client reports it by a page.
        os.dup2(self.nowhere, 2)
        os.write(self.stderr, f"error: {text}\n".encode())
        os._exit(AbsentError.exit_status)  # the main thread may be in a collective, which nothing interrupts


@contextlib.contextmanager
def watched(patience: int) -> Iterator[None]:
    """Watch the other processes until this one leaves in order, or ``failed`` is called.

    Args:
        patience: Seconds of silence after which a process counts as lost.
    """
    watch = _State.watch = Watch(_connections(), patience)
    watch.start()
    try:
        yield
    except Preempted:  # on all processes alike
        watch.leave(LEFT)
        raise
    watch.leave(LEFT)


def failed() -> None:
    """Tell the other processes that this one failed and is about to end."""
    if _State.watch is not None:
        _State.watch.leave(FAILED)


def patience() -> int:
    """Return the seconds of silence after which a process counts as lost; 0 in a run of one process."""
    return 0 if _State.watch is None else _State.watch.patience


def _connections() -> dict[int, Connection]:
    """Connect to process 0, or on process 0 to all others; those that cannot reach it are left out."""
    from jax.experimental import multihost_utils

    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", 0))) if first else None
        port = server.getsockname()[1] if server else 0
        *numbers, port = map(int, multihost_utils.broadcast_one_to_all(np.array([*_own_address(), port])))
        if server is not None:
            return _accepted(server)
        with contextlib.suppress(OSError):
            found = socket.create_connection((".".join(map(str, numbers)), port), timeout=CONNECT_SECONDS)
            found.settimeout(None)
            peer = Connection(found.detach())
            peer.send_bytes(str(jax.process_index()).encode())
            return {0: peer}
    return {}


def _own_address() -> bytes:
    """Return the IPv4 address by which other machines reach this one; nothing is sent to learn it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the documentation's range: any address outside serves
        except OSError:  # a machine without a network is alone
            return socket.inet_aton("127.0.0.1")
        return socket.inet_aton(probe.getsockname()[0])


def _accepted(server: socket.socket) -> dict[int, Connection]:
    others, peers = set(range(1, jax.process_count())), dict[int, Connection]()
    deadline = time.monotonic() + CONNECT_SECONDS
    while others - peers.keys() and (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        with contextlib.suppress(OSError, EOFError, ValueError):  # late, or something else connected
            peer = Connection(server.accept()[0].detach())
            if peer.poll(2) and (index := int(peer.recv_bytes(20))) in others:
                peers[index] = peer
    if absent := ", ".join(map(str, sorted(others - peers.keys()))):
        print(
            f"process {absent} cannot connect to port {server.getsockname()[1]} of process 0; "
            "if it is lost, only JAX notices, later",
            file=sys.stderr,
        )
    return peers
