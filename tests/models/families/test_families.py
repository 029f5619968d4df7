"""Every family: what transformers computes on torch, layer by layer, in, out and token by token."""

import json
import logging
from io import StringIO

import jax
import numpy as np
import pytest
import transformers
from transformers import AutoConfig

from cann_jax.models.config import DecoderConfig
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.sampling.generate import generate
from tests.builders.families import FAMILIES, longrope, ours, padded, save_family, theirs
from tests.builders.features import features_by_forward
from tests.builders.forward import our_logits, random_ids, torch_logits
from tests.builders.models import SHAPE

PROMPTS, LENGTHS, LIMIT = random_ids((2, 16)), np.array([16, 10]), 12
COMMON = 8  # tokens that both prompts begin with
PROMPTS[1, :COMMON] = PROMPTS[0, :COMMON]
LAYERS = (1, 2)  # of which features are taken


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return save_family(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def files(folder):
    return open_model(str(folder))


@pytest.fixture(scope="module")
def decoder(files):
    return load_decoder(files, "float32")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("offset", [0, 2100])
def test_logits_and_every_layer_equal_torch(decoder, folder, side, offset):
    batch = padded(side, offset)
    logits, states = ours(decoder, batch)
    expected, expected_states = theirs(folder, batch)
    assert np.ptp(expected) > 1  # a model whose logits are all alike would prove nothing
    np.testing.assert_allclose(states, expected_states, atol=1e-4)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_padding_is_never_read(decoder):
    """A row's logits are those of the row alone."""
    alone = padded("right", lengths=(9,))
    for side in ("left", "right"):
        batch = padded(side)
        place = slice(None, 9) if side == "right" else slice(-9, None)
        row = alone._replace(ids=batch.ids[1:2, place])
        rows = np.repeat(np.arange(3), batch.valid.sum(1))
        np.testing.assert_allclose(ours(decoder, batch)[0][rows == 1], ours(decoder, row)[0], atol=1e-5)


def test_decoding_equals_the_full_forward_pass(decoder, files):
    """K responses behind a prompt that is computed once, as is what both prompts begin with; windows pass
    from the one into the other."""
    model = LanguageModel.of(decoder, files)
    samples = generate(
        model.graph, model.weights, PROMPTS[:, COMMON:], LENGTHS - COMMON, np.arange(2), jax.random.key(0),
        np.array([999]), responses=3, max_new_tokens=LIMIT, feature_layers=LAYERS,
        prefix=model.prefix(PROMPTS[0, :COMMON]),
    )  # fmt: skip
    tokens = np.asarray(samples.tokens)
    assert len({row.tobytes() for row in tokens.reshape(-1, LIMIT)}) == 6
    for n, k in np.ndindex(2, 3):
        row = np.concatenate([PROMPTS[n, : LENGTHS[n]], tokens[n, k]])
        logps = jax.nn.log_softmax(our_logits(decoder, row[None])[0], axis=-1)
        places = np.arange(LENGTHS[n] - 1, len(row) - 1)
        expected = np.asarray(logps)[places, row[places + 1]]
        np.testing.assert_allclose(samples.logps[n, k], expected, atol=1e-4)
    prompts = [PROMPTS[n, : LENGTHS[n]] for n in range(2)]
    lengths = np.asarray(samples.lengths)
    packed = model.logps(prompts, tokens, lengths)
    np.testing.assert_allclose(samples.logps.sum(-1), packed, atol=2e-4)
    expected = features_by_forward(decoder, prompts, tokens, lengths, LAYERS)
    np.testing.assert_allclose(samples.features, expected, atol=1e-4)


def test_export_equals_the_original_in_torch(decoder, files, folder, tmp_path):
    export_folder(decoder, files, tmp_path)
    ids = random_ids((2, 17))
    np.testing.assert_allclose(torch_logits(tmp_path, ids), torch_logits(folder, ids), atol=1e-5)
    np.testing.assert_array_equal(
        our_logits(load_decoder(open_model(str(tmp_path)), "float32"), ids), our_logits(decoder, ids)
    )


def test_config_is_written_as_it_was_read(files, folder):
    written = files.config.to_hf()
    original = json.loads((folder / "config.json").read_text())
    assert {key: original[key] for key in written if key in original} == {
        key: value for key, value in written.items() if key in original
    }
    older = {"rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq"}
    assert written.keys() - original.keys() <= {"head_dim", *older}
    assert DecoderConfig.from_hf(json.loads(json.dumps(written)), "written") == files.config


NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 7e5}
LOCAL = {"rope_type": "default", "rope_theta": 3e4}
LLAMA_3 = LINEAR | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = LINEAR | {"rope_type": "yarn", "original_max_position_embeddings": 512}
ROPES = {
    **{family: (family, {}) for family in FAMILIES},
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "llama, dynamic": ("llama", {"rope_parameters": LINEAR | {"rope_type": "dynamic"}}),
    "llama, llama3": ("llama", {"rope_parameters": LLAMA_3 | {"original_max_position_embeddings": 512}}),
    "qwen3, yarn": ("qwen3", {"rope_parameters": YARN}),
    "llama, longrope": ("llama", {"rope_parameters": longrope(512)["rope_parameters"] | {"factor": 8.0}}),
    "phi3, longrope": ("phi3", longrope(512)),
    "gemma3_text, linear": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": LOCAL}},
    ),
}


@pytest.mark.parametrize("family, changes", ROPES.values(), ids=ROPES)
def test_positions_are_written_for_transformers_4_too(family, changes, tmp_path, recwarn):
    """It does not know rope_parameters; 5 reads the older keys as the same, and both without a word."""
    values = {**SHAPE, "num_hidden_layers": 4, "vocab_size": 304, **FAMILIES[family], **changes}
    config = DecoderConfig.from_hf(AutoConfig.for_model(family, **values).to_dict(), "config.json")
    written = config.to_hf()
    kept = config.kinds[0].rope.theta if family == "gemma3_text" else written["rope_parameters"]["rope_theta"]
    assert written["rope_local_base_freq" if family == "gemma3_text" else "rope_theta"] == kept
    older = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert DecoderConfig.from_hf(json.loads(json.dumps(older)), "older") == config
    assert not older.get("rope_scaling", {}).keys() & {"rope_theta", "partial_rotary_factor"}
    said, logger = StringIO(), transformers.logging.get_logger("transformers")
    handler = logging.StreamHandler(said)
    logger.addHandler(handler)
    for name, content in {"both": written, "older": older}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content | NO_TOKENS))
        theirs = AutoConfig.from_pretrained(tmp_path / name)
        assert without_whole_heads(theirs.rope_parameters) == written["rope_parameters"]
    logger.removeHandler(handler)
    assert not said.getvalue() and not len(recwarn)


def without_whole_heads(parameters: dict) -> dict:
    """Leave out that all of a head is rotated, which transformers adds in Phi-3."""
    return {key: value for key, value in parameters.items() if (key, value) != ("partial_rotary_factor", 1.0)}


def test_bfloat16_close_to_float32(decoder, files):
    """Factors rounded to 8 bits in every part of every family, the sums float32."""
    narrow = our_logits(load_decoder(files, "bfloat16"), random_ids((2, 17)))
    wide = our_logits(decoder, random_ids((2, 17)))
    assert 0 < np.abs(narrow - wide).mean() < 0.01 * np.ptp(wide)


def test_longrope_is_used_up_to_the_length_at_which_its_angles_change(tmp_path):
    """Beyond it, log-probs of sampling and of the whole sequence are those of different angles."""
    trained = int(LENGTHS.max()) + LIMIT
    files = open_model(str(save_family(tmp_path, "phi3", **longrope(trained))))
    assert files.config.context == trained < files.config.max_positions
    model = LanguageModel.of(load_decoder(files, "float32"), files)
    prompts = [PROMPTS[n, : LENGTHS[n]] for n in range(2)]
    off = []
    for limit in (LIMIT, LIMIT + 4):
        samples = generate(
            model.graph, model.weights, PROMPTS, LENGTHS, np.arange(2), jax.random.key(0), np.array([999]),
            responses=2, max_new_tokens=limit,
        )  # fmt: skip
        whole = model.logps(prompts, np.asarray(samples.tokens), np.asarray(samples.lengths))
        off.append(np.abs(samples.logps.sum(-1) - whole).max())
    assert off[0] < 2e-4 and off[1] > 0.05
