"""What an environment holds that no file and no line may: each variable's value has the marker in it."""

from pathlib import Path

import pyarrow.parquet as pq

MARKER = "do-not-tell-5e1f"
SECRETS = {
    name: f"{MARKER}-{name}"
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GITHUB_TOKEN",
        "ANYTHING_ELSE",
    )
}


def told(folder: Path) -> list[str]:
    """The files below a folder that hold the marker, in their names, bytes or tables."""
    found = []
    for path in filter(Path.is_file, sorted(folder.rglob("*"))):
        content = str(path).encode() + path.read_bytes()
        if path.suffix == ".parquet":  # compressed
            table = pq.read_table(path)
            content += str(table.to_pylist()).encode() + str(table.schema).encode()
        if MARKER.encode() in content:
            found.append(str(path.relative_to(folder)))
    return found
