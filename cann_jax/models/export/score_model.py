"""Writing a score model in Safe-RLHF's layout, or as Hugging Face's sequence classifier."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cann_jax.files.errors import InputError
from cann_jax.models.decoder import Decoder
from cann_jax.models.export.folder import iterate_weights, special_ids, storage_dtype, write_folder
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import HEAD
from cann_jax.models.score_model import HUGGING_FACE, SAFE_RLHF

# By layout: the class that reads it, and the name of the head.
LAYOUTS = {
    "safe_rlhf": ("ForScore", f"{SAFE_RLHF}.weight"),
    "hf": ("ForSequenceClassification", f"{HUGGING_FACE}.weight"),
}


def export_score_model(
    decoder: Decoder, head: np.ndarray, files: ModelFiles, folder: Path, *,
    layout: Literal["safe_rlhf", "hf"], objective: Literal["reward", "cost"], dtype: str = "float32",
) -> None:  # fmt: skip
    """Write a folder that ``AutoModelForSequenceClassification`` or Safe-RLHF's ``AutoModelForScore`` opens.

    The score is the last token's state times ``head (hidden,)``, which is kept in float32; larger ones are
    better (``reward``) or more harmful (``cost``). All else as ``export_folder``.

    Raises:
        InputError: The classifier's layout needs a padding token that ends no text, and there is none.
    """
    (kind, name), tokenizer = LAYOUTS[layout], files.tokenizer
    fields: dict[str, Any] = {"score_dim": 1, "bias": False, "do_normalize": False, "score_type": objective}
    if layout == "hf":
        fields = {"id2label": {"0": objective}, "label2id": {objective: 0}}
        tokenizer = _with_separate_padding(tokenizer)
    plain = decoder.config.to_hf()
    classes = [plain["architectures"][0].replace("ForCausalLM", kind)]
    config = {
        **plain,
        **special_ids(tokenizer, files.ends),
        **fields,
        "architectures": classes,
        "dtype": dtype,
    }
    write_folder(folder, config, _weights(decoder, head, name, storage_dtype(dtype)), tokenizer)


def _weights(
    decoder: Decoder, head: np.ndarray, name: str, dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    for weight, tensor in iterate_weights(decoder, dtype):
        if weight != HEAD.name:
            yield weight, tensor
    yield name, np.ascontiguousarray(head[None], np.float32)


def _with_separate_padding(tokenizer: Any) -> Any:
    """Return the tokenizer with a padding token other than its end token.

    transformers reads a classifier's score at the last token that is not padding: if the end token were the
    padding, it would be read one token too early, and a missing end token can change a reward's sign.
    """
    padding = {tokenizer.pad_token, tokenizer.bos_token, tokenizer.unk_token} - {None, tokenizer.eos_token}
    if not padding:
        raise InputError(
            "the tokenizer has no padding token other than its end token; set export to safe_rlhf"
        )
    separate = copy.deepcopy(tokenizer)
    separate.pad_token = tokenizer.pad_token if tokenizer.pad_token in padding else min(padding)
    return separate
