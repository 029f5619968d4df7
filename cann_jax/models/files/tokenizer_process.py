"""Makes what a tokenizer's files ask for, as a process of its own with limits; says why it failed.

An expression of theirs may take years for a word, a step may write megabytes for a letter, and an added token
of 3 MB takes 255 MB. The kernel limits this process's memory and processor time. Nothing of this package is
imported. The model is left out: reading Gemma's takes longer, and ``tokenizer`` checks its numbers.
"""

import contextlib
import json
import resource
import signal
import sys

from tokenizers import AddedToken, Tokenizer

MEMORY = 160 << 20  # bytes of address space, of which Python and the library take 30 MB
SECONDS = 0.8  # of processor time; Gemma 3's 6,415 added tokens take 0.06, and 30,000 take 0.4
EMPTY = {"type": "BPE", "vocab": {}, "merges": []}


def main() -> None:
    """Make the tokenizer on standard input, and tokenize one letter."""
    with contextlib.suppress(ValueError):  # macOS has no such limit, and says so of every number
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the caller answers
    # SIGPROF ends the process where it is, in Rust too.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        request = json.load(sys.stdin)
        tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", **request["steps"], "model": EMPTY}))
        tokenizer.add_tokens([AddedToken(text) for text in request["tokens"]])
        tokenizer.encode("x")
    except BaseException as error:  # the library's PanicException is no Exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        sys.stdout.buffer.write(reason.encode(errors="replace"))  # the locale's encoding may lack some


if __name__ == "__main__":
    main()
