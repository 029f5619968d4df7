"""A ``config.json`` with values retyped, moved or gone is read, or refused in one line.

``INPUT_EXAMPLES=400`` tries that many of each family.
"""

import json
import os

import numpy as np
import pytest
from transformers import AutoConfig

from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from tests.builders.families import FAMILIES
from tests.builders.models import SHAPE
from tests.builders.mutations import changed_tree

EXAMPLES = int(os.environ.get("INPUT_EXAMPLES", "60"))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_changed_configurations(family, old):
    shape = {**SHAPE, "num_hidden_layers": 4, "vocab_size": 304, "pad_token_id": 1, **FAMILIES[family]}
    whole = json.loads(AutoConfig.for_model(family, **shape).to_json_string())
    if old:  # as transformers 4 wrote it
        del whole["rope_parameters"]
        whole |= {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    DecoderConfig.from_hf(whole, "config.json")
    for seed in range(EXAMPLES):
        changed = changed_tree(whole, np.random.default_rng(seed))
        try:
            config = DecoderConfig.from_hf(changed, "config.json")
        except InputError as error:
            assert "\n" not in str(error)
            continue
        written = json.loads(json.dumps(config.to_hf()))
        assert DecoderConfig.from_hf(written, "config.json") == config and config.context > 0
