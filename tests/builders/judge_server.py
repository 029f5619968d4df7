"""A local server that speaks OpenAI's protocol as a test tells it to: well, slowly, seldom, or nonsense."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Said:
    """What the server sends: a status, a body (a value for JSON, or bytes as they are), and headers.

    With ``pause``, in seconds, the body goes out byte by byte, or with ``filler`` so many headers one by one;
    with ``cut`` half of the body goes out, before a hang-up.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    pause: float | None = None
    filler: int = 0
    cut: bool = False


Speaker = Callable[[str, int], Said]  # from the text of the question and the number of the request


def completion(text: Any, ending: str = "stop", **message: Any) -> Said:
    """A chat completion that took 10 tokens."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": ending,
    }
    return Said({"id": "1", "object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 10}})


@dataclass
class Server:
    """A running server: its address, and the requests that it got, (path, headers, body) each."""

    address: str
    requests: list[tuple[str, dict[str, str], Any]]

    def texts(self) -> list[str]:
        return [body["messages"][-1]["content"] for _, _, body in self.requests]


@contextlib.contextmanager
def judge_server(speak: Speaker) -> Iterator[Server]:
    """Serve what ``speak`` says until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.requests.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                number = len(server.requests)
            said = speak(body["messages"][-1]["content"], number)
            data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            with contextlib.suppress(ConnectionError):  # who asked has waited long enough
                self.send_response(said.status)
                for number in range(said.filler):
                    self.send_header(f"X-{number}", "")
                    self.flush_headers()
                    time.sleep(said.pause or 0)
                for name, value in {**said.headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                data = data[: len(data) // 2] if said.cut else data
                for piece in [data] if said.pause is None or said.filler else map(bytes, zip(data)):
                    self.wfile.write(piece)
                    time.sleep(said.pause or 0)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1", [])
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
