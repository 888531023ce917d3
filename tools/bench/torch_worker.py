"""DiffTMR's published training step in PyTorch, timed for tools/bench/vs_torch.py.

Runs in a separate environment with torch, transformers and numpy. It follows docs/papers.md#difftmr
in the straightforward way: BERT of transformers, texts padded to one length, the denoiser on every
pair of query and candidate, Adam. `Form` selects PyTorch's faster options, with the same
mathematics.

Reads a JSON command per line of standard input and prints a JSON answer.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

NORM_FLOOR = 1e-8
LOG_RADIUS = (-8.0, 2.0)
MAX_LOG_SCALE = math.log(100)
SHARPNESS = 100.0
FLAX_EPS = 1e-6  # of a LayerNorm
LONGEST = 256  # the recipe pads every text to it
RATES = {"bert": 3e-5, "coupling": 1e-5, "t2m": 1e-3, "m2t": 1e-3, "word_weights": 1e-3}
BASE_RATE = 1e-4


@dataclass(frozen=True)
class Form:
    """How one and the same step is carried out."""

    half: bool  # bfloat16 by autocast
    sorted: bool  # batches of like lengths, padded to the longest of them; else LONGEST
    compiled: bool  # torch.compile of the text encoder


FORMS = {
    "recipe": Form(half=False, sorted=False, compiled=False),
    "float32, sorted": Form(half=False, sorted=True, compiled=False),
    "bfloat16, sorted": Form(half=True, sorted=True, compiled=False),
    "bfloat16, sorted, compiled": Form(half=True, sorted=True, compiled=True),
}


def tensor(array: np.ndarray) -> Tensor:
    """On the device that the worker has made the default one."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.get_default_device())


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)


class Gcn(nn.Module):
    """Three layers of D^-1/2 (A + I) D^-1/2 X W + b on atoms (docs/papers.md#encoders)."""

    def __init__(self, atoms: int, width: int, dim: int) -> None:
        super().__init__()
        self.atoms = nn.Embedding(atoms, dim)
        sizes = (dim, width, width, dim)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(a, b)) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(b)) for b in sizes[1:])
        self.norm = nn.LayerNorm(dim, eps=FLAX_EPS)

    def forward(self, mol: Molecules) -> tuple[Tensor, Tensor]:
        """Atoms [N, D] and their mean by molecule [B, D]."""
        x = self.atoms(mol.nodes)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight
            x = torch.zeros_like(x).index_add_(
                0, mol.receivers, (x[mol.senders] * mol.weight[:, None]).to(x.dtype)
            )
            x = x + bias
            x = x if i == 2 else F.relu(x)
        x = self.norm(x.float())
        total = torch.zeros(mol.count, x.shape[1]).index_add_(0, mol.molecule, x)
        return x, total / torch.bincount(mol.molecule, minlength=mol.count)[:, None]


class Hdan(nn.Module):
    """The denoiser of one direction on pairs of query and candidate (docs/papers.md#denoiser)."""

    def __init__(self, dim: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out, self.time_in, self.time_out = (nn.Linear(dim, dim) for _ in range(3))
        self.depth, self.depth_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.lift, self.lift_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.inner, self.outer = nn.Linear(2 * dim, 2 * dim), nn.Linear(2 * dim, 1)

    def forward(
        self, query: Tensor, candidates: Tensor, local: Tensor, state: Tensor, k: Tensor
    ) -> Tensor:
        """p [Q, N]: query [Q, D], candidates [N, D] of all queries, local and state [Q, N]."""
        e = self.time_out(F.silu(self.time_in(sinusoid(k, query.shape[1]))))  # [Q, D]
        with_time = candidates[None] + e[:, None]  # [Q, N, D]
        logits = (self.query(query + e)[:, None] * self.key(with_time)).sum(-1)
        attention = logits.float().softmax(-1)
        value = self.value(with_time)
        read = self.out(((attention + state)[..., None] * value).sum(1))
        whole = read[:, None] + self.depth * value + self.depth_bias
        near = local[..., None] * self.lift + self.lift_bias
        joint = self.gamma * near + (1 - self.gamma) * whole
        pairs = torch.cat([joint, candidates[None].expand_as(joint)], -1)
        return self.outer(F.relu(self.inner(pairs)))[..., 0] + attention


def sinusoid(k: Tensor, dim: int) -> Tensor:
    half = dim // 2
    angle = k[:, None].float() * 10_000.0 ** (-torch.arange(half) / half)
    return torch.cat([angle.sin(), angle.cos()], -1)


def alpha_bar(steps: int) -> np.ndarray:
    u = np.arange(steps + 1) / steps
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.concatenate([[1.0], np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))])


@dataclass
class Molecules:
    """Molecules one after another."""

    count: int
    nodes: Tensor  # [N]
    senders: Tensor
    receivers: Tensor  # self-loops included
    weight: Tensor  # of each edge, (d_i d_j)^-1/2
    molecule: Tensor  # [N]
    place: Tensor  # [N], of the atom in its molecule


@dataclass
class Batch:
    tokens: Tensor  # [B, T]
    mask: Tensor  # [B, T]
    mol: Molecules
    duplicate: Tensor  # [B, B]


@dataclass
class Noise:
    """What a step draws; given, two programs can be compared."""

    perturbation: Tensor  # [B, D]
    steps: tuple[Tensor, Tensor]  # k [B] of both directions
    states: tuple[Tensor, Tensor]  # [B, B] of both directions


class DiffTMR(nn.Module):
    def __init__(self, meta: dict[str, Any]) -> None:
        super().__init__()
        told = meta["bert"]
        config = BertConfig(
            vocab_size=told["vocab_size"],
            hidden_size=told["hidden"],
            num_hidden_layers=told["layers"],
            num_attention_heads=told["heads"],
            intermediate_size=told["intermediate"],
            max_position_embeddings=told["max_positions"],
            hidden_dropout_prob=meta["dropout"],
            attention_probs_dropout_prob=meta["dropout"],
        )
        dim = meta["dim"]
        self.steps, self.levels = meta["steps"], torch.tensor(alpha_bar(meta["steps"])).float()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.read = self.bert  # compiled, where it is
        self.projection = nn.Linear(told["hidden"], dim)
        self.text_norm = nn.LayerNorm(dim, eps=FLAX_EPS)
        self.gcn = Gcn(meta["atoms"], meta["width"], dim)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.coupling = nn.Linear(LONGEST, dim)
        self.word_weights = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 1))
        self.t2m, self.m2t = Hdan(dim, meta["gamma"]), Hdan(dim, meta["gamma"])

    def encode_text(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.read(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return self.text_norm(self.projection(states).float())

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        words = self.encode_text(batch.tokens, batch.mask)
        atoms, mol = self.gcn(batch.mol)
        text = words[:, 0]
        cosines = (unit(words) @ unit(mol)[:, :, None])[..., 0] * batch.mask
        cosines = F.pad(cosines, (0, LONGEST - cosines.shape[1]))
        radius = self.coupling(cosines).float().clamp(*LOG_RADIUS).exp()
        perturbed = mol + radius * noise.perturbation
        scale = self.log_scale.clamp_max(MAX_LOG_SCALE).exp()
        scores = scale * (unit(text) @ unit(perturbed).T).float()
        return self.contrast(scores, batch) + self.generative(
            batch, noise, words.detach(), atoms.detach(), mol.detach(), perturbed.detach()
        )

    @staticmethod
    def contrast(scores: Tensor, batch: Batch) -> Tensor:
        scores = scores.masked_fill(batch.duplicate, torch.finfo(scores.dtype).min)
        own = torch.arange(len(scores))
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    def generative(
        self,
        batch: Batch,
        noise: Noise,
        words: Tensor,
        atoms: Tensor,
        mol: Tensor,
        perturbed: Tensor,
    ) -> Tensor:
        local = self.local_scores(batch, words, atoms)
        right = batch.duplicate | torch.eye(len(local), dtype=torch.bool)
        goal = right / right.sum(-1, keepdim=True)
        text, mol, perturbed = unit(words[:, 0]), unit(mol), unit(perturbed)
        sides = ((self.t2m, text, perturbed, local), (self.m2t, mol, text, local.T))
        total = torch.zeros(())
        for side, k, drawn in zip(sides, noise.steps, noise.states, strict=True):
            net, query, candidates, near = side
            level = self.levels[k][:, None]
            state = level.sqrt() * goal + (1 - level).sqrt() * drawn
            p = net(query, candidates, near, state, k).float()
            total = total + divergence(goal, (SHARPNESS * p).log_softmax(-1))
        return total

    def local_scores(self, batch: Batch, words: Tensor, atoms: Tensor) -> Tensor:
        """r_ij: every word of text i takes the nearest atom of molecule j, by weight."""
        mol, (texts, length, dim) = batch.mol, words.shape
        padded = torch.zeros(mol.count, int(mol.place.max()) + 1, dim)
        padded[mol.molecule, mol.place] = unit(atoms)
        there = torch.zeros(padded.shape[:2], dtype=torch.bool)
        there[mol.molecule, mol.place] = True
        cosines = padded @ unit(words).reshape(texts * length, dim).T  # [B, A, B T]
        cosines = cosines.masked_fill(~there[:, :, None], -math.inf)
        nearest = cosines.amax(1).view(mol.count, texts, length)
        logits = self.word_weights(words)[..., 0].masked_fill(~batch.mask, -math.inf)
        return (nearest * logits.float().softmax(-1)[None]).sum(-1).T


def divergence(goal: Tensor, log_found: Tensor) -> Tensor:
    known = torch.where(goal > 0, goal, torch.ones_like(goal))
    return (goal * (known.log() - log_found)).sum(-1).mean()


# Data


class Data:
    """Texts and molecules of `work.npz`, ragged; batches as they are asked for."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._a = arrays
        self.lengths = np.diff(arrays["text_offsets"])

    def text(self, rows: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        tokens = np.full((len(rows), length), int(self._a["pad"]), np.int64)
        mask = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            begin, end = self._a["text_offsets"][row : row + 2]
            tokens[i, : end - begin] = self._a["tokens"][begin:end]
            mask[i, : end - begin] = True
        return tensor(tokens), tensor(mask)

    def molecules(self, rows: np.ndarray) -> Molecules:
        a, shift, parts = self._a, 0, []
        for i, row in enumerate(rows):
            begin, end = a["node_offsets"][row : row + 2]
            first, last = a["edge_offsets"][row : row + 2]
            own = np.arange(end - begin)
            send = np.concatenate([a["senders"][first:last], own])
            receive = np.concatenate([a["receivers"][first:last], own])
            degree = np.bincount(receive, minlength=end - begin)
            weight = (degree[send] * degree[receive]) ** -0.5
            ones = np.full(end - begin, i)
            nodes = a["nodes"][begin:end]
            parts.append((nodes, send + shift, receive + shift, weight, ones, own))
            shift += end - begin
        nodes, send, receive, weight, molecule, place = (
            np.concatenate(x) for x in zip(*parts, strict=True)
        )
        whole = (tensor(x.astype(np.int64)) for x in (nodes, send, receive))
        at = (tensor(x.astype(np.int64)) for x in (molecule, place))
        return Molecules(len(rows), *whole, tensor(weight).float(), *at)

    def batch(self, rows: np.ndarray, form: Form) -> Batch:
        tokens, mask = self.text(rows, self.padded(rows, form))
        groups = (tensor(self._a[name][rows]) for name in ("text_group", "mol_group"))
        text, mol = ((g[:, None] == g[None]) for g in groups)
        duplicate = (text | mol) & ~torch.eye(len(rows), dtype=torch.bool)
        return Batch(tokens, mask, self.molecules(rows), duplicate)

    def padded(self, rows: np.ndarray, form: Form) -> int:
        if not form.sorted:
            return LONGEST
        longest = int(self.lengths[rows].max())
        # Compiled, every length is a program of its own: as few of them as ours has.
        fitting = [b for b in self._a["buckets"] if b >= longest]
        return int(min(fitting)) if form.compiled else longest


# Work


class Worker:
    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        torch.set_default_device(meta["device"])
        torch.manual_seed(0)
        with np.load(folder / "work.npz") as file:
            self.arrays = {name: file[name] for name in file.files}
        self.data = Data(self.arrays)
        self.model = DiffTMR(meta)
        with np.load(folder / "params.npz") as file:
            load(self.model, {name: file[name] for name in file.files})
        # As they began, so that every form starts there.
        self.start = {name: t.clone() for name, t in self.model.state_dict().items()}
        self.steps, self.dim = meta["steps"], meta["dim"]
        self.compiled = torch.compile(self.model.bert)

    def take(self, form: Form) -> None:
        self.model.load_state_dict(self.start)
        self.model.read = self.compiled if form.compiled else self.model.bert
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            groups.setdefault(RATES.get(name.split(".")[0], BASE_RATE), []).append(parameter)
        told = [{"params": group, "lr": rate} for rate, group in groups.items()]
        self.optimizer = torch.optim.Adam(told, fused=form.sorted)

    def noise(self, count: int) -> Noise:
        steps = tuple(torch.randint(1, self.steps + 1, (count,)) for _ in range(2))
        states = tuple(torch.randn(count, count) for _ in range(2))
        return Noise(torch.randn(count, self.dim), steps, states)

    def check(self) -> dict[str, Any]:
        """Loss and norm of the gradients of a known batch with known noise, dropout off."""
        a, form = self.arrays, FORMS["recipe"]
        self.take(form)
        self.model.eval()
        drawn = [tensor(a[f"check_{name}"]) for name in ("eps", "k0", "k1", "x0", "x1")]
        noise = Noise(drawn[0], (drawn[1], drawn[2]), (drawn[3], drawn[4]))
        loss = self.model.loss(self.data.batch(a["check_rows"], form), noise)
        loss.backward()
        square = sum(
            float((p.grad**2).sum()) for p in self.model.parameters() if p.grad is not None
        )
        return {"loss": loss.item(), "gradient": math.sqrt(square)}

    def step(self, rows: np.ndarray, form: Form) -> float:
        batch = self.data.batch(rows, form)
        with autocast(form):
            loss = self.model.loss(batch, self.noise(len(rows)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def train(self, name: str, first: int, count: int) -> dict[str, Any]:
        """`count` steps from step `first` of the plan, and how long they took."""
        form = FORMS[name]
        plan = self.arrays["sorted_plan" if form.sorted else "random_plan"]
        self.model.train()
        rows = [plan[i % len(plan)] for i in range(first, first + count)]
        start = time.perf_counter()
        losses = [self.step(r, form) for r in rows]
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "pairs": count * plan.shape[1], "loss": losses[-1]}

    def encode(self, name: str, texts: int) -> dict[str, Any]:
        """[CLS] of the first `texts` texts, batch after batch."""
        form = FORMS[name]
        self.model.eval()
        rows = np.arange(texts)
        if form.sorted:
            rows = rows[np.argsort(self.data.lengths[rows], kind="stable")]
        size = int(self.arrays["encode_batch"])
        start = time.perf_counter()
        with torch.inference_mode(), autocast(form):
            for at in range(0, texts, size):
                part = rows[at : at + size]
                text = self.data.text(part, self.data.padded(part, form))
                unit(self.model.encode_text(*text)[:, 0]).cpu().numpy()
        return {"seconds": time.perf_counter() - start, "texts": texts}


def autocast(form: Form) -> Any:
    device = torch.get_default_device().type
    return torch.autocast(device, torch.bfloat16) if form.half else nullcontext()


def load(model: DiffTMR, ours: dict[str, np.ndarray]) -> None:
    """Parameters by the project's names into PyTorch's, which hold matrices transposed."""
    theirs = dict(model.named_parameters())
    for name, parameter in theirs.items():
        value = ours[our_name(name)]
        linear = name.endswith(".weight") and parameter.ndim == 2 and "embeddings" not in name
        value = value.T if linear and not name.startswith("gcn.atoms") else value
        value = value.reshape(parameter.shape)
        parameter.data = tensor(np.array(value, np.float32))


BERT_NAMES = (
    ("attention.self.", ""),
    ("attention.output.dense", "attention_output"),
    ("attention.output.LayerNorm", "attention_norm"),
    ("intermediate.dense", "intermediate"),
    ("output.dense", "output"),
    ("output.LayerNorm", "output_norm"),
)
PARTS = {
    "projection": "text_projection",
    "text_norm": "text_norm",
    "word_weights.0": "word_weights/inner",
    "word_weights.2": "word_weights/outer",
    "gcn.norm": "graph_encoder/norm",
}


def our_name(name: str) -> str:
    """text_encoder/layer_0/query/kernel of bert.encoder.layer.0.attention.self.query.weight."""
    stem, _, kind = name.rpartition(".")
    if name.startswith("bert.embeddings."):
        part = stem.removeprefix("bert.embeddings.")
        if part == "LayerNorm":
            return f"text_encoder/embeddings_norm/{'scale' if kind == 'weight' else 'bias'}"
        return f"text_encoder/{part}/embedding"
    if name.startswith("bert.encoder.layer."):
        number, _, part = stem.removeprefix("bert.encoder.layer.").partition(".")
        for theirs, ours in BERT_NAMES:
            if part.startswith(theirs):
                part = part.replace(theirs, ours, 1)
                break
        leaf = "bias" if kind == "bias" else "scale" if part.endswith("norm") else "kernel"
        return f"text_encoder/layer_{number}/{part}/{leaf}"
    if name.startswith("gcn.weights."):
        return f"graph_encoder/layers/dense_{kind}/kernel"
    if name.startswith("gcn.biases."):
        return f"graph_encoder/layers/bias_{kind}"
    if name == "gcn.atoms.weight":
        return "graph_encoder/atoms/embedding"
    if stem == "coupling":
        return f"coupling/{'kernel' if kind == 'weight' else 'bias'}"
    if stem in PARTS:
        leaf = "bias" if kind == "bias" else "scale" if "norm" in stem else "kernel"
        return f"{PARTS[stem]}/{leaf}"
    if name.startswith(("t2m.", "m2t.")):
        return name.replace(".weight", "").replace(".bias", "_bias").replace(".", "/")
    return name


def answers(worker: Worker) -> Iterator[dict[str, Any]]:
    do: dict[str, Callable[..., dict[str, Any]]] = {
        "check": worker.check,
        "train": worker.train,
        "encode": worker.encode,
    }
    for line in sys.stdin:
        command = json.loads(line)
        what = command.pop("do")
        if what == "take":
            worker.take(FORMS[command["name"]])
            yield {}
        else:
            yield do[what](**command)


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    worker = Worker(Path(sys.argv[1]))
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for answer in answers(worker):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
