"""tmr export RUN OUT: the weights of a run in a folder a quarter of the size; or, for other
programs (--full, --onnx), exact and in their formats.

In: an evaluated run. Out: a folder that every command takes as a run (--run OUT): the parameters of
the best checkpoint in 8 bits (tmr_jax/models/exported.py), what turns strings into their inputs,
golden.json with numbers of a few embeddings, README.md (the model card), and SHA256SUMS. The card
has the scores of the run. To add those of the rounded weights, evaluate OUT and run the same
command again: where OUT is of the same parameters, it writes the card and SHA256SUMS only.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tmr_jax import cli
from tmr_jax.config import Experiment, from_json, load_experiment
from tmr_jax.data.files import cache_folder, new_folder, write_json, write_text
from tmr_jax.eval.leakage import STAGES, TRAINED_ON, earlier_data
from tmr_jax.eval.ood import read_detector, save_detector
from tmr_jax.eval.rerank import REFINE
from tmr_jax.eval.terminal import table_lines
from tmr_jax.models.checkpoint import parameters_sha256
from tmr_jax.models.encode import Encoder
from tmr_jax.models.exported import read_weights, write_sums, write_weights
from tmr_jax.models.lexical import read_lexical
from tmr_jax.models.onnx import need_jax2onnx, write_onnx
from tmr_jax.models.pretrained import save_bert
from tmr_jax.models.run import (
    FEATURES,
    TOKENIZER,
    VOCABULARY,
    Checkpoint,
    TrainedModel,
    branch_sha256,
    load_run,
)
from tmr_jax.models.runtime import (
    CODE,
    CONFIG,
    EXPORTED,
    FACTS_FILE,
    GIT,
    LEXICAL,
    VALIDATION,
    use_compile_cache,
)
from tmr_jax.types import UserError

GOLDEN = "golden.json"
TEXT, ONNX = "text_encoder", "onnx"  # folders for other programs
TOLERANCE = 5e-3  # of one number of an embedding of length one, on another machine
FIRST = 8  # numbers of each embedding in golden.json
TEXTS = (
    "an aromatic amine with a chlorine atom",
    "a steroid with a ketone",
    "a dipeptide",
    "a fatty acid with 18 carbons and two double bonds. It has a role as a plant metabolite.",
)
MOLECULES = ("Nc1ccc(Cl)cc1", "C[C@H](N)C(=O)O", "[Na+].CC(=O)[O-]", "CC(=O)Oc1ccccc1C(=O)O")


@dataclass(frozen=True)
class Arguments:
    """Export the weights of a run, 8 bits by output channel, with a model card."""

    run: tyro.conf.Positional[Path]
    """Directory that training wrote."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    beside: tuple[Path, ...] = ()
    """Runs whose scores the card shows too, e.g. one that was trained on more data."""
    full: bool = False
    """Parameters in float32, and the text encoder as a Hugging Face folder, text_encoder."""
    onnx: bool = False
    """All of --full, and both encoders as ONNX, in the folder onnx."""


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("export", _export, arguments, expected=(OSError,))


def _export(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "export", args)
    export(chosen.run, chosen.out, chosen.beside, chosen.full, chosen.onnx)
    size = sum(path.stat().st_size for path in chosen.out.rglob("*") if path.is_file())
    cosine = json.loads((chosen.out / GOLDEN).read_text("utf-8"))["cosine"]
    print(f"{chosen.out}: {size / 1e6:.1f} MB; cosine of embeddings before and after: {cosine:.5f}")
    print(f"{TRAINED_ON} lists the InChIKeys of training molecules; delete it if they are secret")
    return 0


def export(
    run: Path, out: Path, beside: Sequence[Path] = (), full: bool = False, onnx: bool = False
) -> None:
    """Writes the folder `out`, or, in 8 bits, its card alone where it has the same parameters.

    Raises UserError where `run` is not an evaluated run, `out` holds something else, or jax2onnx is
    missing.
    """
    full = full or onnx
    if onnx:
        need_jax2onnx()
    use_compile_cache(cache_folder())
    model, params, checkpoint = load_run(run)
    file = out / EXPORTED
    same = file.is_file() and read_weights(file)[1].get("sha256") == parameters_sha256(params)
    small = not full and not (out / TEXT).exists()
    if same and small and branch_sha256(out) == branch_sha256(run):
        _describe(run, out, checkpoint, beside)
        return
    if out.exists():
        raise UserError(
            f"expected a new folder, or weights of {run} in 8 bits; got {out}, which exists; "
            "choose another"
        )
    with new_folder(out) as partial:
        _write(run, partial, Encoder(model, params), checkpoint, full)
        if full:
            _write_text_encoder(partial / TEXT, model, params)
        if onnx:
            (partial / ONNX).mkdir()
            write_onnx(partial / ONNX, model, params, TEXTS, MOLECULES)
        _describe(run, partial, checkpoint, beside)


def _write(run: Path, folder: Path, encoder: Encoder, checkpoint: Checkpoint, exact: bool) -> None:
    """All files but the card; `encoder` has the parameters of the run."""
    for name in (CONFIG, FEATURES, TOKENIZER, VOCABULARY, LEXICAL, CODE, TRAINED_ON, STAGES):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    sha256 = parameters_sha256(encoder.params)
    about = {"which": checkpoint.which, "step": str(checkpoint.step), "sha256": sha256}
    write_weights(folder / EXPORTED, encoder.params, about, exact)
    write_sums(folder)
    before = _embeddings(encoder)
    _, encoder.params, rounded = load_run(folder)
    after = _embeddings(encoder)
    numbers = dict(zip((*TEXTS, *MOLECULES), after[:, :FIRST].tolist(), strict=True))
    cosine = float((before * after).sum(1).min())
    golden = {"tolerance": TOLERANCE, "cosine": cosine, "embeddings": numbers}
    write_json(folder / GOLDEN, golden, indent=1)
    # What evaluation chose before rounding holds until the folder is evaluated itself.
    if (detector := read_detector(run, checkpoint.sha256)) is not None:
        save_detector(folder, rounded.sha256, detector)
    if choice := _read(run / REFINE).get(checkpoint.sha256):
        write_json(folder / REFINE, {rounded.sha256: choice})
    if (facts := _read(run / FACTS_FILE)).get("checkpoint") == checkpoint.sha256:
        write_json(folder / FACTS_FILE, facts | {"checkpoint": rounded.sha256}, indent=1)


def _write_text_encoder(folder: Path, model: TrainedModel, params: Any) -> None:
    """A Hugging Face folder of it, and the linear map and the norm that its states go through."""
    from safetensors.numpy import save

    folder.mkdir()
    save_bert(folder, model.bert, params["text_encoder"], model.config.model.text.gelu)
    model.tokenizer.save_folder(folder, model.config.features.max_tokens)
    linear, norm = params["text_projection"], params["text_norm"]
    tensors = {"projection.weight": linear["kernel"].T, "projection.bias": linear["bias"]}
    tensors |= {"norm.weight": norm["scale"], "norm.bias": norm["bias"]}
    plain = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    (folder / "projection.safetensors").write_bytes(save(plain))


def _embeddings(encoder: Encoder) -> np.ndarray:
    """Those of TEXTS, then of MOLECULES, float32 [n, D]."""
    return np.concatenate([encoder.texts(TEXTS).rows, encoder.molecules(MOLECULES)[0].rows])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


# The model card: every number and name in it is from a file of the run

HEAD = """\
Weights for tmr_jax, written by `tmr export`. Use this folder as a run:
`tmr search --run FOLDER --library my.smi "an aromatic amine"`, or `tmr_jax.load(FOLDER)` in Python.
`sha256sum -c SHA256SUMS` checks the files."""
LIMITS = """\
- A score is a cosine, not a probability. The first hit of a search may be wrong, as the scores say.
- The model learned from English texts in the wording of the sources above. A query in other words,
  or about something that those texts do not say, finds less; `is_ood` tells which queries differ.
- Databases describe natural products, metabolites and drugs more often than other molecules, and
  well-known ones more often than others. What is described seldom is found seldom.
- Nothing here says that a molecule is safe, active, available or can be made.
- Texts are cut after {} word pieces."""
MINILM = """\
- Text encoder: all-MiniLM-L6-v2 of sentence-transformers, Apache-2.0; changed by training and
  rounding."""
CHEBI = """\
- Text: ChEBI (https://www.ebi.ac.uk/chebi), CC BY 4.0
  (https://creativecommons.org/licenses/by/4.0/); terms were selected and put into sentences."""


def _describe(run: Path, folder: Path, checkpoint: Checkpoint, beside: Sequence[Path]) -> None:
    """Writes the card and SHA256SUMS; UserError where scores are missing or of other parameters."""
    config = from_json((run / CONFIG).read_text("utf-8"))
    features, report = _read(run / FEATURES), _read(run / VALIDATION)
    about = read_weights(folder / EXPORTED)[1]
    full = (folder / TEXT).is_dir()
    title = "of these weights" if full else "before rounding"
    scores = _scores(run, title, checkpoint.sha256)
    if (folder / "results.json").is_file():
        scores += _scores(folder, "after rounding", load_run(folder)[2].sha256)
    for other in beside:
        scores += _scores(other, f"of another run, {other.name}")
    parts = [f"# {config.name}: retrieval of molecules from text and back", HEAD]
    parts += ["## Model", _model(config, features, about) + _branch(folder)]
    parts += ["## For other programs", _others(folder, config)] if full else []
    parts += ["## Training data"]
    parts += [_data(run, config, report), "## Scores", *scores, "## Limits, and bias of the text"]
    parts += [LIMITS.format(config.features.max_tokens)]
    names = [report.get("source", ""), *(row["source"] for row in report.get("sources", ()))]
    credits = [MINILM] * (features["weights"]["source"] == "minilm")
    credits += [CHEBI] * any("chebi" in name.lower() for name in names)
    parts += ["## Credits", "\n".join(credits)] if credits else []
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")
    write_sums(folder)


def _model(config: Experiment, features: dict[str, Any], about: dict[str, str]) -> str:
    bert, start, graph = features["bert"], features["weights"], config.model.graph
    try:
        known = load_experiment(config.name) == config
    except UserError:
        known = False
    command = f"`tmr train --exp {config.name}`" if known else f"see `{CONFIG}`"
    return f"""\
- Model `{config.model.name}`, embeddings of {config.model.dim} numbers
- Text encoder: {bert["layers"]} layers of {bert["hidden"]} numbers, from {start["source"]} \
{start.get("revision", "")} ({start["init"]})
- Molecule encoder: `{graph.kind}`, {graph.layers} layers, features `{config.features.molecule}`
- Parameters: {about["parameters"]}
- Checkpoint: {about["which"]}, step {about["step"]}, SHA-256 of its parameters {about["sha256"]}
- Training: {command}"""


def _branch(folder: Path) -> str:
    lexical = read_lexical(folder)
    if lexical is None:
        return ""
    return (
        f"\n- Linear branch: {lexical.width} more numbers from {len(lexical.grams):,} word pieces "
        f"and pairs of them, {100 * lexical.share:g} % of the cosine (`{LEXICAL}`)"
    )


def _others(folder: Path, config: Experiment) -> str:
    lines = [
        f"- `{TEXT}`: the text encoder for `transformers.AutoModel` and `AutoTokenizer`, and in",
        "  `projection.safetensors` what its states go through; "
        f"pooling: {config.model.text.pooling}",
    ]
    if (folder / ONNX).is_dir():
        lines += [f"- `{ONNX}/text.onnx` and `{ONNX}/molecule.onnx`: embeddings of length one"]
    return "\n".join([*lines, f"- `{LEXICAL}` is in neither, nor is reranking"])


def _data(run: Path, config: Experiment, report: dict[str, Any]) -> str:
    commit = (run / GIT).read_text("utf-8").split("\n")[0] if (run / GIT).is_file() else "unknown"
    stages = [*(data.name for data in earlier_data(run)), config.data.name]
    lines = [f"Data sets of all stages: {', '.join(stages)}. Commit of the code: {commit}."]
    if not report:
        return f"{lines[0]} The run has no {VALIDATION}, which would list the rows."
    pairs = report["training"]["pairs"]
    unknown = {"source": report["source"], "licence": "not recorded", "rows": pairs}
    lines += ["", "| source | licence | training rows |", "|---|---|---|"]
    for row in report.get("sources") or [unknown]:
        lines += [f"| {row['source']} | {row['licence']} | {row['rows']:,} |"]
    skipped = report["refused"] | report["training"]["molecules_refused"]
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in skipped.items()) or "none"
    lines += [
        "",
        f"{pairs:,} training pairs. {report['rows']:,} rows were read, {report['left_out']:,} left "
        f"out by a filter, skipped: {reasons}.",
    ]
    return "\n".join([*lines, *report["notes"]])


def _scores(run: Path, title: str, checkpoint: str = "") -> list[str]:
    """A heading and every score in results.json, which are of the parameters `checkpoint`."""
    results = _read(run / "results.json")
    if not results or checkpoint not in ("", results["checkpoint"]["sha256"]):
        raise UserError(
            f"expected scores of the exported parameters in {run}; got "
            f"{'those of another checkpoint' if results else 'no results.json'}; evaluate it: "
            f"tmr eval --run {run}"
        )
    made = f"`{results['command']}`, {results['created'][:10]}, code {results['commit']}"
    table = "\n".join(("```text", *table_lines(results), "```"))
    return [f"### Scores {title}", made, table]


if __name__ == "__main__":
    sys.exit(main())
