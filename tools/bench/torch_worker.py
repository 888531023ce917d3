"""DiffTMR's published training step in PyTorch, timed for tools/bench/vs_torch.py.

Runs in a separate environment with torch, transformers and numpy. It follows docs/papers.md#difftmr
in the straightforward way: BERT of transformers, texts padded to one length, the denoiser on every
pair of query and candidate, Adam. `Form` selects PyTorch's faster options, with the same
mathematics.

Reads a JSON command per line of standard input and prints a JSON answer.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
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
    return F.normalize(x, dim=-1, eps=NORM_FLOOR)


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
        sizes = meta["bert"]
        config = BertConfig(
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["intermediate"],
            max_position_embeddings=sizes["max_positions"],
            hidden_dropout_prob=meta["dropout"],
            attention_probs_dropout_prob=meta["dropout"],
        )
        dim = meta["dim"]
        self.steps, self.levels = meta["steps"], torch.tensor(alpha_bar(meta["steps"])).float()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.read = self.bert  # compiled, where it is
        self.projection = nn.Linear(sizes["hidden"], dim)
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
            found = (SHARPNESS * p).log_softmax(-1)
            total = total + F.kl_div(found, goal, reduction="batchmean")
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


# Data


class Data:
    """Texts and molecules of `work.npz`, ragged; batches as they are asked for."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._a = arrays
        self.lengths = np.diff(arrays["text_offsets"])

    def text(self, rows: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        texts = [self._a["tokens"][slice(*self._a["text_offsets"][row : row + 2])] for row in rows]
        mask = np.arange(length) < self.lengths[rows, None]
        tokens = np.full(mask.shape, int(self._a["pad"]), np.int64)
        tokens[mask] = np.concatenate(texts)
        return tensor(tokens), tensor(mask)

    def molecules(self, rows: np.ndarray) -> Molecules:
        a, bonds = self._a, [slice(*self._a["edge_offsets"][row : row + 2]) for row in rows]
        nodes = np.concatenate([a["nodes"][slice(*a["node_offsets"][r : r + 2])] for r in rows])
        sizes = np.diff(a["node_offsets"])[rows]
        first = np.cumsum(sizes) - sizes
        own = np.arange(len(nodes))  # each atom is joined to itself
        send, receive = (
            np.concatenate([*(ends[b] + f for b, f in zip(bonds, first, strict=True)), own])
            for ends in (a["senders"], a["receivers"])
        )
        degree = np.bincount(receive)
        weight = (degree[send] * degree[receive]) ** -0.5
        molecule = np.repeat(np.arange(len(rows)), sizes)
        place = own - first[molecule]
        atoms, sends, receives, of, at = (
            tensor(x.astype(np.int64)) for x in (nodes, send, receive, molecule, place)
        )
        return Molecules(len(rows), atoms, sends, receives, tensor(weight).float(), of, at)

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
            load(self.model, {name: file[name] for name in file.files}, meta["bert_names"])
        # As they began, so that every form starts there.
        self.start = {name: t.clone() for name, t in self.model.state_dict().items()}
        self.steps, self.dim = meta["steps"], meta["dim"]
        self.compiled = torch.compile(self.model.bert)

    def take(self, name: str) -> dict[str, Any]:
        """The state at the start, for one form of the step."""
        form = FORMS[name]
        self.model.load_state_dict(self.start)
        self.model.read = self.compiled if form.compiled else self.model.bert
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter_name, parameter in self.model.named_parameters():
            rate = RATES.get(parameter_name.split(".")[0], BASE_RATE)
            groups.setdefault(rate, []).append(parameter)
        rates = [{"params": group, "lr": rate} for rate, group in groups.items()]
        self.optimizer = torch.optim.Adam(rates, fused=form.sorted)
        return {}

    def noise(self, count: int) -> Noise:
        steps = tuple(torch.randint(1, self.steps + 1, (count,)) for _ in range(2))
        states = tuple(torch.randn(count, count) for _ in range(2))
        return Noise(torch.randn(count, self.dim), steps, states)

    def check(self) -> dict[str, Any]:
        """Loss and norm of the gradients of a known batch with known noise, dropout off."""
        a, form = self.arrays, FORMS["recipe"]
        self.take("recipe")
        self.model.eval()
        drawn = [tensor(a[f"check_{name}"]) for name in ("eps", "k0", "k1", "x0", "x1")]
        noise = Noise(drawn[0], (drawn[1], drawn[2]), (drawn[3], drawn[4]))
        loss = self.model.loss(self.data.batch(a["check_rows"], form), noise)
        loss.backward()
        gradients = (p.grad for p in self.model.parameters() if p.grad is not None)
        square = sum(float((gradient**2).sum()) for gradient in gradients)
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


def load(model: DiffTMR, ours: dict[str, np.ndarray], bert_names: dict[str, str]) -> None:
    """Parameters by the project's names into PyTorch's, which hold matrices transposed."""
    for name, parameter in model.named_parameters():
        value = ours[bert_names.get(name) or our_name(name)]
        linear = name.endswith(".weight") and parameter.ndim == 2 and "embeddings" not in name
        value = value.T if linear and not name.startswith("gcn.atoms") else value
        parameter.data = tensor(np.array(value.reshape(parameter.shape), np.float32))


NAMES = (  # of parameters, PyTorch's and the project's; each that fits is replaced in turn
    (r"^gcn\.(weights|biases)\.(\d)$", r"graph_encoder/layers/\1_\2"),
    (r"weights_(\d)$", r"dense_\1/kernel"),
    (r"biases_(\d)$", r"bias_\1"),
    (r"^gcn\.atoms\.weight$", "graph_encoder/atoms/embedding"),
    (r"^gcn\.", "graph_encoder/"),
    (r"^projection", "text_projection"),
    (r"^word_weights\.0", "word_weights/inner"),
    (r"^word_weights\.2", "word_weights/outer"),
    (r"^(t2m|m2t)\.(\w+)(\.weight)?$", r"\1/\2"),
    (r"^(t2m|m2t)\.(\w+)\.bias$", r"\1/\2_bias"),
    (r"norm\.weight$", "norm/scale"),
    (r"\.weight$", "/kernel"),
    (r"\.bias$", "/bias"),
)


def our_name(name: str) -> str:
    """word_weights/inner/kernel of word_weights.0.weight."""
    for pattern, ours in NAMES:
        name = re.sub(pattern, ours, name)
    return name


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    worker = Worker(Path(sys.argv[1]))
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(worker, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
