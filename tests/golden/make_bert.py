"""Record the outputs of PyTorch's BERT for tests/models/layers/test_bert.py.

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 transformers==5.23.0 \\
        safetensors numpy
    torchenv/bin/python tests/golden/make_bert.py [--minilm FOLDER]

Runs in a separate environment: the project itself needs neither torch nor transformers. Eager
attention, float32, an attention mask, no dropout. It records the hidden states of the real tokens
and the pooler's output; random weights are not stored, bert_recipe.py draws them again. Without
--minilm (the folder of all-MiniLM-L6-v2) the file of that model is not changed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import bert_recipe  # next to this script
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel

GOLDEN = Path(__file__).resolve().parent


def random_model(size: str) -> BertModel:
    config = BertConfig(**bert_recipe.config_of(size), attn_implementation="eager")
    model = BertModel(config).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    arrays = bert_recipe.weights(shapes)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
    return model


def run(model: BertModel, tokens: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs and outputs; `states` [real tokens, hidden] in row order."""
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(mask).long()
        )
    states = out.last_hidden_state.numpy()[mask]
    return {"tokens": tokens, "mask": mask, "states": states, "pooled": out.pooler_output.numpy()}


def families() -> dict[str, np.ndarray]:
    """Hidden states of a small DistilBERT and a small MPNet, `NAME` [real tokens, hidden]."""
    tokens, mask = bert_recipe.family_tokens()
    arrays = {"tokens": tokens, "mask": mask}
    for name, content in bert_recipe.FAMILIES.items():
        values = {k: v for k, v in content.items() if k != "model_type"}
        config = AutoConfig.for_model(name, **values, attn_implementation="eager")
        model = AutoModel.from_config(config).eval()
        drawn = bert_recipe.weights({n: tuple(t.shape) for n, t in model.state_dict().items()})
        model.load_state_dict({n: torch.from_numpy(a) for n, a in drawn.items()})
        with torch.no_grad():
            inputs = torch.from_numpy(tokens).long(), torch.from_numpy(mask).long()
            arrays[name] = model(*inputs).last_hidden_state.numpy()[mask]
    return arrays


def names() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of all tensors of the small encoder of each family."""
    found = {}
    for content in (bert_recipe.config_of("small"), *bert_recipe.FAMILIES.values()):
        values = {k: v for k, v in content.items() if k != "model_type"}
        model = AutoModel.from_config(AutoConfig.for_model(content["model_type"], **values))
        found[content["model_type"]] = {n: [*t.shape] for n, t in model.state_dict().items()}
    return found


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    path = GOLDEN / f"bert_{name}.npz"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays, torch_version=np.array(torch.__version__))
    os.replace(partial, path)
    scale = max(np.abs(a).max() for n, a in arrays.items() if a.dtype == np.float32)
    print(f"{path.name}: {path.stat().st_size:,} bytes, largest state {scale:.2f}")


def minilm(folder: str) -> dict[str, np.ndarray]:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = [tokenizer(text)["input_ids"] for text in bert_recipe.MINILM_TEXTS]
    model = BertModel.from_pretrained(
        folder, local_files_only=True, attn_implementation="eager", dtype=torch.float32
    )
    return run(model.eval(), *bert_recipe.padded(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", default="", help="folder of all-MiniLM-L6-v2")
    args = parser.parse_args()
    for size in bert_recipe.CONFIGS:
        save(size, run(random_model(size), *bert_recipe.random_tokens(size)))
    save("families", families())
    (GOLDEN / "bert_names.json").write_text(json.dumps(names()) + "\n")
    if args.minilm:
        save("minilm", minilm(args.minilm))


if __name__ == "__main__":
    main()
