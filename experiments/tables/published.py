"""Published numbers; a table shows them next to ours.

Hits@k and MRR are shares of 1, MR is a rank. The numbers are only checked by arithmetic: a table
marks those that no ranking can have. Models of one printed table were not ranked under one
protocol, so each has its own and a note (docs/papers.md#protocols).
"""

from __future__ import annotations

from tmr_jax.table.plan import Cited

FULL = ("hits@1", "hits@10", "mrr", "mr")  # ChEBI-20: pool of 33,010, test queries
PARAGRAPH = ("hits@1", "hits@5", "hits@10", "mrr")  # PCdes, paragraph level


def printed(names: tuple[str, ...], line: str) -> dict[str, float]:
    """A line as printed, "72.8 / 96.5 / .823 / 16.24": hits in per cent, "-" for none."""
    pairs = zip(names, line.split(" / "), strict=True) if line else ()
    per_cent = {name: 100 if name.startswith("hits") else 1 for name in names}
    return {name: float(text) / per_cent[name] for name, text in pairs if text != "-"}


def chebi(source: str, t2m: str, m2t: str = "", note: str = "") -> Cited:
    pool = "chebi20-text2mol/full-33010"
    return Cited(source, pool, 33_010, printed(FULL, t2m), printed(FULL, m2t), note)


def in_split(source: str, t2m: str, m2t: str, note: str) -> Cited:
    """Printed among rows of the full pool; the pool is that of ORMA's code."""
    how = "chebi20-text2mol, inside the split (ORMA's code)"
    return Cited(source, how, 3_277, printed(FULL, t2m), printed(FULL, m2t), note)


def pcdes(protocol: str, note: str, t2m: str, m2t: str, source: str = "") -> Cited:
    """The sources state no pool: 0."""
    hits = printed(PARAGRAPH, t2m), printed(PARAGRAPH, m2t)
    return Cited(source or f"as in {MAIN}", protocol, 0, *hits, note)


TEXT2MOL, DIFFTMR = "Text2Mol (EMNLP 2021)", "DiffTMR (ACM MM 2025)"
MAIN = f"{DIFFTMR}, Table 2"
NO_CODE = "its code is not public, so its protocol cannot be checked"
CHEBI20 = {
    "Text2Mol MLP1": chebi(TEXT2MOL, "22.4 / 68.6 / .372 / 30.38"),
    "Text2Mol GCN2": chebi(TEXT2MOL, "22.3 / 68.9 / .371 / 41.90"),
    "MLP+Atten": chebi(TEXT2MOL, "22.8 / 68.7 / .375 / 30.37"),
    "MLP+FPG": chebi(TEXT2MOL, "22.6 / 68.6 / .374 / 30.37"),
    "MLP-Ensemble": chebi(TEXT2MOL, "29.4 / 77.6 / .452 / 20.78"),
    "GCN-Ensemble": chebi(TEXT2MOL, "29.4 / 77.1 / .447 / 28.77"),
    "All-Ensemble": chebi(TEXT2MOL, "34.4 / 81.1 / .499 / 20.21", "25.2 / 74.1 / .408 / 21.77"),
    "AMAN": chebi(
        "AMAN (IEEE TAI 2023)", "49.4 / 92.1 / .647 / 16.01", "46.6 / 91.6 / .625 / 16.50"
    ),
    "Atomas-base": chebi(
        "Atomas",
        "50.1 / 92.1 / .653 / 14.49",
        "45.6 / 90.3 / .614 / 15.12",
        "pre-trained; its text and pool were not checked",
    ),
    "Memory Bank": chebi(
        "Memory Bank (BIBM 2024)", "56.5 / 94.1 / .702 / 12.66", "52.3 / 93.3 / .673 / 12.29"
    ),
    "ORMA": in_split(
        "ORMA (BIBM 2024)",
        "66.4 / 93.7 / .775 / 18.63",
        "61.2 / 92.8 / .738 / 10.21",
        "doubtful: its code ranks so, each molecule with its own text; the paper's pool is unknown",
    ),
    "CLASS (ORMA)": in_split(
        "CLASS",
        "67.4 / 93.4 / .774 / 17.82",
        "62.0 / 92.7 / .738 / 14.59",
        "doubtful: no code is public, and its backbone is ORMA",
    ),
    "DiffTMR": chebi(
        f"{DIFFTMR}, Table 1",
        "72.8 / 96.5 / .823 / 16.24",
        "66.7 / 96.3 / .784 / 10.07",
        NO_CODE,
    ),
}

UNKNOWN = "PCdes, split not stated"
# protocol and note of the groups of DiffTMR's table
TUNED = (
    "pcdes/scaffold",
    "pre-trained, fine-tuned; MolFM's table and its pool of about 3,000, by our reading",
)
ZERO_SHOT = UNKNOWN, "pre-trained, zero-shot: not trained on PCdes"
PCDES = {
    "SciBERT": pcdes(*TUNED, "16.3 / 33.9 / 42.6 / .250", "15.0 / 34.1 / 41.7 / .239"),
    "KV-PLM": pcdes(*TUNED, "20.6 / 37.9 / 45.7 / .292", "19.3 / 37.3 / 45.3 / .281"),
    "MoMu": pcdes(*TUNED, "24.5 / 45.4 / 53.8 / .343", "24.9 / 44.9 / 54.3 / .345"),
    "MolFM": pcdes(*TUNED, "29.8 / 50.5 / 58.6 / .396", "29.4 / 50.3 / 58.5 / .393"),
    "MolCA": pcdes(*ZERO_SHOT, "35.1 / 62.1 / 69.8 / .473", "38.0 / 66.8 / 74.5 / .508"),
    # two numbers are printed; that they are R@1 of the directions is our reading
    "MoleculeSTM": pcdes(*ZERO_SHOT, "35.8 / - / - / -", "39.5 / - / - / -"),
    "Atomas-base": pcdes(*ZERO_SHOT, "39.1 / 59.7 / 66.6 / .473", "37.9 / 59.2 / 65.6 / .478"),
    "Atomas-large": pcdes(*ZERO_SHOT, "49.1 / 68.3 / 73.2 / .578", "46.2 / 66.0 / 72.3 / .555"),
    "ORMA": pcdes(
        UNKNOWN,
        "from scratch; its own code knows no PCdes",
        "64.8 / 82.3 / 86.3 / .727",
        "62.1 / 81.4 / 86.3 / .710",
    ),
    "DiffTMR": pcdes(
        UNKNOWN,
        f"from scratch; {NO_CODE}",
        "69.0 / 85.6 / 89.2 / .755",
        "66.8 / 84.3 / 88.7 / .738",
        MAIN,
    ),
}

ABLATIONS = f"{DIFFTMR}, ablation on ChEBI-20"
PERTURBATION = {
    "mean": chebi(ABLATIONS, "63.4 / 90.1 / .792 / 17.3"),
    "scalar": chebi(ABLATIONS, "66.1 / 93.2 / .805 / 16.7"),
    "matrix": chebi(ABLATIONS, "72.8 / 96.5 / .823 / 16.24"),
}
SAMPLES = {
    5: chebi(ABLATIONS, "63.5 / 90.2 / .795 / 17.9"),
    10: chebi(ABLATIONS, "68.4 / 93.6 / .811 / 17.1"),
    15: chebi(ABLATIONS, "72.8 / 96.5 / .823 / 16.24"),
    20: chebi(ABLATIONS, "71.5 / 95.8 / .820 / 16.8"),
}
STEPS = {  # (trained, evaluated)
    (10, 10): chebi(ABLATIONS, "71.3 / - / - / -"),
    (50, 10): chebi(ABLATIONS, "71.7 / - / - / -"),
    (50, 50): chebi(ABLATIONS, "72.8 / - / - / -"),
    (100, 10): chebi(ABLATIONS, "70.3 / - / - / -"),
    (100, 50): chebi(ABLATIONS, "71.2 / - / - / -"),
    (100, 100): chebi(ABLATIONS, "70.5 / - / - / -"),
    (1000, 10): chebi(ABLATIONS, "70.0 / - / - / -"),
    (1000, 50): chebi(ABLATIONS, "70.7 / - / - / -"),
    (1000, 100): chebi(ABLATIONS, "70.9 / - / - / -"),
    (1000, 500): chebi(ABLATIONS, "71.0 / - / - / -"),
}
