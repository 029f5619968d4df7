"""A judge behind an endpoint that speaks OpenAI's protocol."""

import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, local
from types import ModuleType
from typing import Any

from cann_jax.config.judge import JudgeModelConfig
from cann_jax.files.console import printable
from cann_jax.files.errors import InputError, is_out_of_memory, shown
from cann_jax.files.progress import track
from cann_jax.judging.replies import LONGEST, Asked, Reply

# Questions in a row without a reply, each sent again as often as asked for: it will not come back.
SILENT = 10
CONNECT_SECONDS = 10.0
SAID = 200  # characters of a server's message in an error
LARGEST = 1 << 24  # bytes of a response's body that are read; what is longer is no completion
# Errors of the HTTP client behind a connection that was made: the server was there, and may answer the next.
CUT_OFF = ("ReadError", "WriteError", "CloseError", "RemoteProtocolError")
KEY = 8  # characters of the shortest key; a shorter one is a dummy, and may be a word of any answer


class Endpoint:
    """Sends questions, several at once, within a budget.

    Raises:
        InputError: The package openai is missing, or the key is none.
    """

    tokenizer = None  # the server's own, which its protocol does not tell

    def __init__(self, config: JudgeModelConfig) -> None:
        try:
            import openai
        except ImportError:
            problem = "asks an endpoint, which needs the package openai; run: pip install openai"
            raise InputError(f"judge.model {problem}") from None
        self.config, self._openai = config, openai
        self._key = os.environ.get(config.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):  # no header can hold it
            problem = "holds a character that no key has; set it anew"
            raise InputError(f"judge.key_variable {config.key_variable}: {problem}")
        wait = openai.Timeout(config.timeout_seconds, connect=min(CONNECT_SECONDS, config.timeout_seconds))
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=config.base_url,
            timeout=wait,
            max_retries=config.retries,
            http_client=_bounded_client(openai, config.timeout_seconds),
        )
        self._lock = Lock()
        self._stopped = False
        self._requests = self._tokens = self._silent = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What its replies depend on besides the question."""
        names = ("base_url", "model", "temperature", "answer_tokens")
        return {name: getattr(self.config, name) for name in names}

    def ask(self, asked: Mapping[str, Asked], keep: Callable[[str, Reply], None]) -> None:
        """Send questions and hand each reply, with the question's name, to ``keep`` as it comes.

        Raises:
            InputError: The endpoint cannot be reached, refuses the key or the model, or leaves questions
                unanswered one after the other; or a budget is spent. Replies to what was under way are kept.
        """
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures = [pool.submit(self._ask, name, each, keep) for name, each in asked.items()]
            try:
                for future in track(futures, "judge", noun="questions"):
                    future.result()
            except BaseException:
                self._stopped = True
                raise

    def _ask(self, name: str, asked: Asked, keep: Callable[[str, Reply], None]) -> None:
        with self._lock:
            if self._stopped:
                return
            self._spend()
        try:
            reply, tokens = self._send(asked)
            with self._lock:
                self._tokens += tokens
                keep(name, reply)
                self._count(reply)
        except BaseException:
            self._stopped = True
            raise

    def _spend(self) -> None:
        budgets = {
            "requests": (self._requests, self.config.budget_requests),
            "tokens": (self._tokens, self.config.budget_tokens),
        }
        for unit, (spent, most) in budgets.items():
            if most is not None and spent >= most:
                self._stopped = True
                raise InputError(
                    f"judge.budget_{unit}: {spent} of {most} are spent and questions are left; start "
                    "again to go on with as many more, or raise it"
                )
        self._requests += 1

    def _count(self, reply: Reply) -> None:
        self._silent = 0 if reply.failure is None else self._silent + 1
        if self._silent >= SILENT:
            last = f"{reply.failure} ({printable(reply.text)})" if reply.text else reply.failure
            raise InputError(
                f"judge.base_url {self.config.base_url}: {self._silent} questions in a row had no reply, the "
                f"last {last}; start again later, lower judge.concurrency, or raise "
                "judge.timeout_seconds or judge.retries"
            )

    def _send(self, asked: Asked) -> tuple[Reply, int]:
        """Return the reply, and the tokens that it took."""
        messages = [{"role": turn.role, "content": turn.text} for turn in asked.turns]
        if asked.template.system is not None:
            messages.insert(0, {"role": "system", "content": asked.template.system})
        settings: dict[str, Any] = {self.config.token_limit: self.config.answer_tokens}
        if self.config.temperature is not None:
            settings["temperature"] = self.config.temperature
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            body = create(model=self.config.model, messages=messages, **settings).text
        except self._openai.APIConnectionError as error:
            return self._unconnected(error), 0
        except self._openai.APIStatusError as error:
            return self._status(error), 0
        except Exception as error:  # status, headers and body are a server's, and may upset who reads them
            if is_out_of_memory(error):
                raise
            return Reply(type(error).__name__, failure="failed"), 0
        # Read by hand: the package hands over whatever a server sends, of whatever types.
        return read_completion(body, self._without_key)

    def _unconnected(self, error: Exception) -> Reply:
        if isinstance(error, self._openai.APITimeoutError) and _reason(error) != "ConnectTimeout":
            return Reply(failure="timed out")
        if type(error.__cause__).__name__ in CUT_OFF:
            return Reply(_reason(error), failure="failed")
        raise InputError(
            f"judge.base_url {self.config.base_url}: cannot be reached ({_reason(error)}); start the server, "
            "or fix the address"
        )

    def _status(self, error: Any) -> Reply:
        said = _kept(" ".join(str(error.message).split()), self._without_key)
        if error.code == "content_filter":  # its answer to this question, by the status of a wrong request
            return Reply(said, "refused")
        said = printable(said[:SAID])
        if error.response.has_redirect_location:
            target = _target(error.response, self._without_key)
            raise InputError(
                f"judge.base_url {self.config.base_url}: redirects to {target}, and prompts are sent to no "
                "address but the configured one; set judge.base_url to that, if you trust it"
            )
        if error.code == "insufficient_quota":
            raise InputError(f"judge.base_url {self.config.base_url}: out of budget there ({said})")
        if error.status_code in (401, 403, 404):
            raise InputError(
                f"judge.base_url {self.config.base_url}: refuses judge.model {self.config.model!r} ({said}); "
                f"fix the model, the address, or the key in {self.config.key_variable}"
            )
        return Reply(said, failure="rate limited" if error.status_code == 429 else "failed")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= KEY else text


def _bounded_client(openai: ModuleType, seconds: float) -> Any:
    """Return an HTTP client that bounds the time and size of a whole response, and takes it as it comes.

    It follows no redirect, which could take the prompts to another host. A body is neither unpacked, as
    0.7 MB of gzip became 160 MB, nor decoded by the charset of its header: JSON is UTF-8, and ``hex`` raised.
    """
    client = openai.DefaultHttpxClient
    library: Any = importlib.import_module(client.__mro__[1].__module__)  # httpx, or what openai has for it
    thread = local()  # each sends one request at once, and reads all of the response

    def start(request: Any) -> None:
        thread.deadline = time.monotonic() + seconds
        request.extensions["trace"] = connected

    def connected(_: str, info: Mapping[str, Any]) -> None:
        stream: Any = info.get("return_value")
        if hasattr(stream, "start_tls"):  # the stream of a new connection, which later requests use too
            stream.read, stream.write = in_time(stream.read), in_time(stream.write)

    # The library's limit is for each piece: a gateway that sends a space or a line of headers every second,
    # to keep the connection, would be waited for without end.
    def in_time(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(data: Any, timeout: float | None = None) -> Any:
            left = thread.deadline - time.monotonic()
            if left <= 0:
                raise library.ReadTimeout("the whole response took too long")
            return act(data, timeout=left)

        return acted

    class Bounded(library.SyncByteStream):
        def __init__(self, pieces: Any) -> None:
            self._pieces = pieces

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for piece in self._pieces:
                if (size := size + len(piece)) > LARGEST:
                    return
                yield piece

        def close(self) -> None:
            self._pieces.close()

    def answered(response: Any) -> None:
        response.stream = Bounded(response.stream)
        response.headers.pop("content-encoding", None)
        response.encoding = "utf-8"

    return client(
        event_hooks={"request": [start], "response": [answered]},
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
    )


def read_completion(body: str, clean: Callable[[str], str]) -> tuple[Reply, int]:
    """Return the reply in a chat completion, and the tokens that it took; nonsense is a reply of its text.

    ``clean`` takes out of a text what must not be kept.
    """
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        message, ending = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return Reply(_kept(body, clean), "malformed"), 0
    usage = found.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else 0
    tokens = max(tokens, 0) if isinstance(tokens, int) else 0
    if refusal or ending == "content_filter":
        return Reply(_kept(refusal or text, clean), "refused"), tokens
    return Reply(_kept(text, clean), "cut off" if ending == "length" else None), tokens


def _target(response: Any, clean: Callable[[str], str]) -> str:
    """Return where a redirect leads, without the query, in which a gateway may have put secrets."""
    return shown(clean(response.headers["location"]).partition("?")[0])


def _reason(error: BaseException) -> str:
    """Return the system's reason of a failed connection, or the kind of its error.

    Texts of other errors are not told: some quote the request's headers, which have the key.
    """
    kind, cause = type(error.__cause__).__name__, error.__cause__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return kind


def _kept(text: object, clean: Callable[[str], str]) -> str:
    """Return the beginning of a text, as UTF-8 can hold it; of another value, none."""
    # Cleaned before it is cut, which could leave half of what must not be kept.
    return clean(text)[:LONGEST].encode(errors="replace").decode() if isinstance(text, str) else ""
