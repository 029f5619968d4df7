"""Files of preference data: which are read as which part, and downloads."""

import gzip
import http.server
import json
import lzma
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.data.builders.files import by_part, rows
from cann_jax.files.errors import InputError
from tests.builders import ROOT
from tests.builders.limits import fault
from tests.builders.preferences import hh_row, pku_row, prepare, write_lines, write_parquet


def test_files_that_are_not_there_or_not_readable(tmp_path):
    with pytest.raises(InputError, match="nor a folder with one; check the spelling"):
        prepare(tmp_path, "local", tmp_path / "nothing.jsonl")
    for name, content in {"a.jsonl.gz": b"plain", "b.parquet": b"PAR1"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            prepare(tmp_path, "local", tmp_path / name)
    for name, content, said in (
        ("c", b"\xff\n", "not UTF-8"),
        ("d", b'{"prompt": \n', "invalid JSON"),
        ("f", b"[" * 99_999, "invalid JSON .'nested"),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=rf"^{name}\.jsonl:1: {said}"):
            prepare(tmp_path, "local", tmp_path / f"{name}.jsonl")
    (tmp_path / "bom.jsonl").write_bytes(
        b"\xef\xbb\xbf" + b"".join(json.dumps(pku_row(n)).encode() + b"\r\n" for n in range(30))
    )
    assert sum(map(len, prepare(tmp_path, "local", tmp_path / "bom.jsonl").parts.values())) == 30
    write_lines(tmp_path / "e.jsonl", [hh_row(1)])
    with pytest.raises(
        InputError, match=r"^preferences: 1 pair of 1 prompt, of which a share of 0\.1 holds out"
    ):
        prepare(tmp_path, "local", tmp_path / "e.jsonl")
    write_lines(tmp_path / "g.jsonl", [])
    with pytest.raises(InputError, match=r"no pair is left in the part 'train'; give more data"):
        prepare(tmp_path, "local", tmp_path / "g.jsonl")


def test_parts_by_name():
    names = ["data/A/train.jsonl", "data/A/test.jsonl", "data/B/train.jsonl", "skip/x.jsonl"]
    assert by_part(names, "A") == {"train": ["data/A/train.jsonl"], "heldout": ["data/A/test.jsonl"]}
    assert by_part(["alpaca-7b/test/0000.parquet"], None)["train"] == ["alpaca-7b/test/0000.parquet"]
    with pytest.raises(InputError, match=r"no folder has that name; use one of: A, B, data$"):
        by_part(names, "C", excluded=("skip",))
    held = (
        "val.jsonl dev-v2.parquet x/testset/0.jsonl a_validation.json testData.json held-out.json TEST.JSONL"
    )
    train = "train.jsonl developers.jsonl values.jsonl contest.jsonl x/train-00000-of-1.parquet last/a.json "
    train += "testimonials.jsonl evaluated.jsonl validated_pairs.jsonl"
    assert by_part([*held.split(), *train.split()], None) == {"train": train.split(), "heldout": held.split()}
    for both in ("train_eval.jsonl", "test/train.jsonl"):
        with pytest.raises(InputError, match=f"{both} is named as training and as held-out data at once"):
            by_part([both, "x.jsonl"], None)


@pytest.mark.parametrize("suffix", [".JSONL", ".Jsonl.GZ", ".PARQUET"])
def test_upper_case_suffixes(tmp_path, suffix):
    write = write_parquet if suffix == ".PARQUET" else write_lines
    path = write(tmp_path / "data/pairs.jsonl.gz", [pku_row(n) for n in range(30)])
    plain = suffix == ".JSONL"
    named = tmp_path / f"data/PAIRS{suffix}"
    named.write_bytes(gzip.decompress(path.read_bytes()) if plain else path.read_bytes())
    path.unlink()
    assert sum(map(len, prepare(tmp_path, "local", tmp_path / "data").parts.values())) == 30


def test_hidden_and_temporary_files_are_not_read(tmp_path):
    folder = tmp_path / "data"
    write_lines(folder / "pairs.jsonl", [pku_row(n) for n in range(3)])
    write_lines(folder / "dev.jsonl", [pku_row(n) for n in range(3, 5)])
    hidden = [
        ".ipynb_checkpoints/pairs-checkpoint.jsonl",
        "._pairs.jsonl",
        "_temporary/0/a.jsonl",
        "~$pairs.jsonl",
    ]
    for name in hidden:
        write_lines(folder / name, [pku_row(99)])
    prepared = prepare(tmp_path, "local", folder)
    assert prepared.files == {"train": ["pairs.jsonl"], "heldout": ["dev.jsonl"]}
    assert sorted(prepared.hidden) == sorted(hidden)
    assert [len(prepared.parts[part]) for part in ("train", "heldout")] == [3, 2]


@pytest.fixture
def hub(tmp_path):
    """A server that speaks the little of the Hub's protocol that is needed; yields its address."""
    repository, files = "PKU-Alignment/PKU-SafeRLHF-30K", tmp_path / "served"
    write_lines(files / "train.jsonl", [pku_row(n) for n in range(5)])
    write_lines(files / "test.jsonl", [pku_row(n) for n in range(5, 7)])
    listing = [
        {"type": "file", "path": n, "size": 1, "oid": "0"} for n in ("README.md", "test.jsonl", "train.jsonl")
    ]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            content = None
            if path == f"/api/datasets/{repository}/tree/main":
                content = json.dumps(listing).encode()
            if path.startswith(f"/datasets/{repository}/resolve/main/"):
                content = (files / path.rpartition("/")[2]).read_bytes()
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def download(address: str, tmp_path: Path, revision: str = "main") -> subprocess.CompletedProcess:
    code = (
        "from cann_jax.command_line.errors import run_command\n"
        "from cann_jax.config.preferences import PreferencesConfig\n"
        "from cann_jax.data.prepared_pairs import prepare_pairs\n"
        "def main(argv):\n"
        f"    where = dict(prepared={str(tmp_path / 'p')!r}, revision={revision!r})\n"
        "    made = prepare_pairs(PreferencesConfig('pku_safe_rlhf_30k', 'error', **where))\n"
        "    print({name: [pair.prompt.id for pair in part] for name, part in made.parts.items()})\n"
        "raise SystemExit(run_command(main))"
    )
    environment = {**os.environ, "HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )


def test_download_from_the_hub(hub, tmp_path):
    ended = download(hub, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert eval(ended.stdout) == {
        "train": [f"train.jsonl:{n}" for n in range(1, 6)],
        "heldout": ["test.jsonl:1", "test.jsonl:2"],
    }


def test_hub_that_lacks_the_revision(hub, tmp_path):
    ended = download(hub, tmp_path, "nowhere")
    assert ended.returncode == 2
    assert "does not list PKU-Alignment/PKU-SafeRLHF-30K at 'nowhere'" in ended.stderr
    assert "give preferences.path a local copy" in ended.stderr and "Traceback" not in ended.stderr


def test_a_line_without_end(tmp_path):
    """A few kilobytes of gzip or xz are a line of gigabytes."""
    for suffix, pack in ((".gz", gzip.compress), (".xz", lzma.compress)):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(pack(b'{"prompt":"' + bytes([48]) * (20 << 20)))
        with pytest.raises(InputError, match=r":1: the line has over 16 MB; divide it"):
            list(rows(path.name, path))
        assert not fault(lambda path=path: list(rows(path.name, path)))


def test_many_lines_of_a_small_file(tmp_path):
    """100 KB of gzip or xz are 100 MB of rows, all of which are kept until they are written."""
    for suffix, pack in ((".gz", gzip.compress), (".xz", lzma.compress)):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(pack((b'{"prompt":"' + b"0" * 999_987 + b'"}\n') * 70))
        with pytest.raises(InputError, match=r"its \d+ bytes become 64 MB or more"):
            list(rows(path.name, path))


def test_a_parquet_file_whose_rows_are_one_long_text(tmp_path):
    """Some kilobytes of Parquet, in a column or in lists, are gigabytes of rows."""
    long, many = "w" * 10_000, 20_000
    for name, rows_of in {
        "prompt": [long] * many,
        "turns": [[{"role": "user", "text": long}]] * many,
    }.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({name: rows_of}), path)
        with pytest.raises(InputError, match=rf"{name}\.parquet: its \d+ bytes become \d+ MB or more"):
            list(rows(path.name, path))
        assert not fault(lambda path=path: list(rows(path.name, path)))
