"""LoRA adapters in PEFT's format: ``adapter_config.json`` beside ``adapter_model.safetensors``."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from cann_jax.files.atomic import staged, writes_here, writing
from cann_jax.files.errors import InputError, cut, shown
from cann_jax.models.config import DecoderConfig
from cann_jax.models.config_reader import is_positive
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.folder import Index, Reader, Readers, folder_readers
from cann_jax.models.files.folder_files import check_folder, read_json
from cann_jax.models.files.weight_names import fused_weights, lora_at
from cann_jax.models.linear import Lora
from cann_jax.runtime.placement import fetch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor, in front of the layer's own name
BASE = "base_fingerprint"  # in the weights' metadata; a fine-tuned twin of the base has the same shapes

# Fields that name, describe or train the adapter and change nothing of what it computes.
_DESCRIBING = {
    "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode",
    "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "megatron_core", "qalora_group_size", "runtime_config", "eva_config", "lora_ga_config",
}  # fmt: skip
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"}
# Starting points other than these take part of the base weights away, so the adapter fits no plain base.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """An adapter that was opened and understood, and whose weights are not yet read: W + scale · B A."""

    rank: int
    scale: float
    layers: Mapping[str, tuple[Reader, Reader]]  # (A (r, in), B (out, r)) by the layer's Hugging Face name


def open_adapter(folder: Path, readers: Readers, fingerprint: Callable[[], str]) -> Adapter:
    """Open an adapter and check that it belongs to the model that has these readers and this fingerprint.

    ``fingerprint`` is called only where the adapter records that of its base.

    Raises:
        InputError: The folder holds no adapter, one of an unsupported kind (its field is named), or one of
            another model.
    """
    check_folder(folder)
    rank, scale = _rank_and_scale(folder / CONFIG)
    layers = _pairs(folder / WEIGHTS)
    for layer, (a, b) in layers.items():
        if a.shape[0] != rank:
            found = f"r is {rank} and the weights have rank {a.shape[0]}"
            raise InputError(f"{folder / CONFIG}: {found}; copy both files again")
        _check_fit(folder, f"{layer}.weight", readers.get(f"{layer}.weight"), a, b)
    with safe_open(folder / WEIGHTS, "numpy") as file:
        base = (file.metadata() or {}).get(BASE)
    if base is not None and base != fingerprint():
        raise InputError(
            f"{folder} was trained on another model (fingerprint {base[:12]}, this one's is "
            f"{fingerprint()[:12]}); use the adapter's own base model, or train the adapter again"
        )
    return Adapter(int(rank), scale, layers)


def merged_readers(readers: Readers, adapter: Adapter) -> Readers:
    """Return the readers of a model's tensors with an adapter added in float32."""
    changed = {}
    for layer, (a, b) in adapter.layers.items():
        base = readers[f"{layer}.weight"]
        changed[f"{layer}.weight"] = Reader(base.shape, partial(_sum, base, a, b, adapter.scale))
    return readers | changed


def adapter_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of an adapter."""
    return folder / CONFIG, folder / WEIGHTS


def _sum(base: Reader, a: Reader, b: Reader, scale: float, index: Index) -> np.ndarray:
    rows, columns = (*index, slice(None), slice(None))[:2]
    update = b((rows, slice(None))).astype(np.float32) @ a((slice(None), columns)).astype(np.float32)
    return base(index).astype(np.float32) + scale * update


def _rank_and_scale(path: Path) -> tuple[float, float]:
    """Return r, and the factor of B A: alpha/r, or alpha/√r (rsLoRA, Kalajdzievski 2023)."""
    config = read_json(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{path}: peft_type {shown(kind)} is not supported; use a LORA adapter")
    _refuse(config, path)
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not (is_positive(rank) and (alpha == 0 or is_positive(alpha))):  # 0 is an adapter scaled by nothing
        raise InputError(
            f"{path}: r {shown(rank)} and lora_alpha {shown(alpha)}; r must be above 0, and "
            "lora_alpha at least 0; copy it again"
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _refuse(config: dict[str, Any], path: Path) -> None:
    """Raise InputError for a field that changes the mathematics and is not implemented."""
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias {shown(config['bias'])} is not supported; train with bias 'none'")
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise InputError(
            f"{path}: init_lora_weights {shown(start)} changes the base; merge it with peft first"
        )
    for key, value in config.items():
        if key not in _DESCRIBING | _READ and value:
            raise InputError(
                f"{path}: {key[:80]} {shown(value)} is not supported; merge the adapter with peft first"
            )


def _pairs(path: Path) -> dict[str, tuple[Reader, Reader]]:
    """Return (A, B) of every adapted layer by the layer's Hugging Face name."""
    if not path.exists():
        raise InputError(f"{path} is missing; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    halves: dict[str, dict[str, Reader]] = {}
    for name, reader in folder_readers([path]).items():
        layer, _, half = name.removesuffix(".weight").rpartition(".")
        if not name.startswith(PREFIX) or half not in ("lora_A", "lora_B"):
            raise InputError(f"{path}: {cut(name)} is not supported; use an adapter of linear layers only")
        if len(reader.shape) != 2:
            raise InputError(f"{path}: {cut(name)} has shape {reader.shape}, not two sizes; copy it again")
        halves.setdefault(layer.removeprefix(PREFIX), {})[half] = reader
    for layer, found in halves.items():
        if len(found) < 2:
            raise InputError(f"{path}: {cut(layer)} has only {', '.join(found)}; copy the file again")
    if not halves:
        raise InputError(f"{path} holds no tensor; copy the file again")
    return {layer: (found["lora_A"], found["lora_B"]) for layer, found in halves.items()}


def _check_fit(folder: Path, name: str, base: Reader | None, a: Reader, b: Reader) -> None:
    if base is None:
        raise InputError(f"{folder}: the model has no {cut(name)}; use the adapter's own base model")
    shape = (b.shape[0], a.shape[1])
    if a.shape[0] != b.shape[1] or base.shape != shape:
        raise InputError(
            f"{folder}: {name} has shape {base.shape} and the adapter's A {a.shape} and B {b.shape}; "
            "use the adapter's own base model"
        )


def export_adapter(
    decoder: Decoder,
    folder: Path,
    base: str,
    fingerprint: str,
    scale: float = 1.0,
    revision: str | None = None,
) -> None:
    """Write the decoder's adapters so that ``PeftModel.from_pretrained`` opens them on their base model.

    ``base`` names that model, in its ``revision`` on the Hub, and ``open_adapter`` refuses any with another
    ``fingerprint``. The update is ``scale`` times the decoder's, by ``lora_alpha``.

    Raises:
        InputError: As ``check_adaptable``.
    """
    modules = dict(_adapted(decoder))
    tensors = {name: tensor for layer in modules.items() for name, tensor in _tensors(*layer)}
    lora = next(iter(modules.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.a.shape[-1],
        "lora_alpha": scale * lora.scale * lora.a.shape[-1],
        "lora_dropout": lora.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
    } | ({} if revision is None else {"revision": revision})
    if not writes_here.get():
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        with staged(folder / WEIGHTS) as local:
            save_file(tensors, local, metadata={"format": "pt", BASE: fingerprint})
            _sort_metadata(local)


def check_adaptable(config: DecoderConfig, layers: Collection[str]) -> None:
    """Check that adapters of these layers can be written in PEFT's format.

    Raises:
        InputError: The model keeps one of them fused with others on disk.
    """
    for group in fused_weights(config):
        names = [name for name in layers for weight in group if name in weight.path]
        if names and len(group) > 1:
            raise InputError(
                f"an adapter of {names[0]} cannot be written, for the model keeps it as a part of "
                f"{group[0].name}, which PEFT adapts whole; set export to [merged]"
            )


def _sort_metadata(path: Path) -> None:
    """Sort the header's metadata: safetensors' order differs by run, and equal adapters must hash alike."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    assert len(text) == end - 8, "the same entries in another order have the same length"
    path.write_bytes(data[:8] + text + data[end:])


def _adapted(decoder: Decoder) -> Iterator[tuple[str, Lora]]:
    """Yield each adapted layer's name on disk, with ``{layer}``, and its adapters stacked over layers."""
    for group in fused_weights(decoder.config):
        for weight in group:
            lora = lora_at(decoder, weight.path)
            if lora is None:
                continue
            check_adaptable(decoder.config, (weight.path[-2],))
            yield weight.name.removesuffix(".weight"), lora


def _tensors(layer: str, lora: Lora) -> Iterator[tuple[str, np.ndarray]]:
    for half, stacked in (("lora_A", lora.a), ("lora_B", lora.b)):
        for index, tensor in enumerate(fetch(stacked[...]).astype(np.float32)):
            name = f"{PREFIX}{layer.format(layer=index)}.{half}.weight"
            yield name, np.ascontiguousarray(tensor.T)
