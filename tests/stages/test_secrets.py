"""No secret of the environment is in what a run leaves behind or says, nor in an error's traceback."""

import pyarrow as pa
import pyarrow.parquet as pq

from tests.builders.processes import finish, start
from tests.builders.runs import write_config
from tests.builders.secrets import MARKER, SECRETS, told


def test_the_files_of_whole_runs(finished, calibrated):
    """Both ran with the secrets in their environment."""
    for folder in (finished, calibrated):
        assert len(list(folder.rglob("*"))) > 50 and not told(folder)


def test_a_secret_would_be_found(tmp_path):
    pq.write_table(pa.table({"prompt": [f"a {MARKER} b"] * 3}), tmp_path / "a.parquet", compression="zstd")
    (tmp_path / "b.json").write_text(f'{{"HF_TOKEN": "{SECRETS["HF_TOKEN"]}"}}')
    (tmp_path / "c").write_text("nothing")
    assert told(tmp_path) == ["a.parquet", "b.json"]


def test_what_a_process_says_of_an_error(tmp_path, tiny_folder):
    config = write_config(tmp_path, tiny_folder)
    wrong = ("--constraints.vowels.scorer.function", "tests.builders.toy_scorers:nothing")
    ((_, said),) = finish(start(["-m", "cann_jax.train", "--config", config, *wrong], **SECRETS), status=2)
    assert said.startswith("error: constraints.vowels") and MARKER not in said and not told(tmp_path)
