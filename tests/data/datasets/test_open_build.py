"""What can be rebuilt of open from public files has the bytes that it has in the whole table."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tmr_jax.data import __main__ as command
from tmr_jax.data.datasets import chebi20, open_build, open_pairs, pcdes
from tmr_jax.data.datasets.open_build import COLUMNS, RECOVERED
from tmr_jax.data.download import Part, WrongContent, parts_of, store
from tmr_jax.data.files import open_binary

SMILES = [
    "CC",
    "CCC",
    "CC",
    "[13CH3]O",
    "CCCC",
    "CCCCC",
]  # four of training, one of validation, one of test
ENTRIES = [
    {"cid": 11, "smiles": "CC", "caption": "one  ethane"},
    {"cid": 12, "smiles": "CCCCC", "caption": "a test molecule"},
    {"cid": 13, "smiles": "CC", "caption": "another\nethane"},
    {"cid": 14, "smiles": "[13CH3]O", "caption": "has the connectivity of ChEBI-20's CO"},
]
FLAGS = {b"cv", b"ct", b"pv", b"pt"}
SOURCES = (b"pcdes", b"pubchem324k_valid", b"pubchem324k_test", b"pubchem_desc10k", b"gitmol_toy")
PUBCHEM = {"valid": [("21", "CC", "one ethane")], "test": [("22", "CCN", "an amine")]}


def put(folder: Path, part: Part, content: str) -> Part:
    path = folder / part.set / part.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, newline="")
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return part._replace(sha256=sha256, git_blob="", size=0)


def test_an_excerpt_by_hand(tmp_path, toy_chebi20, monkeypatch) -> None:
    for name, value in (("LINES", 6), ("VALIDATION", 4), ("TEST", 5)):
        monkeypatch.setattr(pcdes, name, value)
    lines = put(tmp_path, pcdes.SMILES, "\n".join(SMILES) + "\n")
    monkeypatch.setattr(pcdes, "SMILES", lines)
    entries = put(tmp_path, pcdes.SCAFFOLD_TEST, json.dumps(ENTRIES))
    monkeypatch.setattr(pcdes, "SCAFFOLD_TEST", entries)
    for name, rows in PUBCHEM.items():
        content = "\n".join("\t".join(row) for row in [("CID", "SMILES", "description"), *rows])
        part = put(tmp_path, open_build.PUBCHEM[f"{name}.txt"], content + "\n")
        monkeypatch.setitem(open_build.PUBCHEM, part.name, part)
    ethane = "CC\tOTMSDBZUPAUEDD-UHFFFAOYSA-N\ttrain\ttrain\tmv"
    assert open_build.public().splitlines() == [
        "\t".join(COLUMNS),
        f"pcdes\t0\t11\t{ethane}\tone ethane",
        f"pcdes\t2\t13\t{ethane}\tanother ethane",  # the second entry of the SMILES
        # PubChem324k's ethane is the first row again
        "pubchem324k_test\t22\t22\tCCN\tQUSNBJAOOMFDIB-UHFFFAOYSA-N\t\t\tmt\tan amine",
    ]


def test_captions_are_those_that_the_package_lists(toy_chebi20) -> None:
    rows = ["CID\tSMILES\tdescription", "1\tCC\tone", "254\t/C=C" + 2 * chr(92) + "C\ttwo"]
    toy_chebi20.put(chebi20.MOLT5_PARTS, "train", "\n".join(rows) + "\n")
    assert open_build.captions().splitlines()[1:] == [f"254\t/C=C{chr(92)}C\t\tmolt5\ttwo"]


def test_what_was_derived_is_kept_with_the_pinned_hash_only(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    part = Part("toy", "file.tsv", sha256=hashlib.sha256(b"right\n").hexdigest())
    with pytest.raises(WrongContent, match="derived here"):
        store(part, "wrong\n")
    assert not list((tmp_path / "data/toy").iterdir())
    assert store(part, "right\n").read_bytes() == b"right\n"


def stand_in() -> str:
    """MolT5's train.txt with the recovered captions, as far as they are known here."""
    with open_binary(open_pairs.locate(RECOVERED)) as file:
        cells = [line.split("\t") for line in file.read().decode().splitlines()]
    known = {row[0]: row[6] for row in cells if row[4] == "molt5"}
    doubled = (
        (cid, s.replace(chr(92), 2 * chr(92))) for cid, s in chebi20.molecules("molt5", "train")
    )
    lines = [f"{cid}\t{smiles}\t{known.get(cid, 'Unknown.')}" for cid, smiles in doubled]
    return "\n".join(["CID\tSMILES\tdescription", *lines]) + "\n"


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[tuple[Path, list[str]]]:
    """Serves the upstream files of TMR_JAX_DATA, which the commands do not see: that folder, and
    what was asked for."""
    folder, asked = Path(os.environ["TMR_JAX_DATA"]), []
    train = stand_in().encode()
    pin = chebi20.MOLT5_PARTS["train"]._replace(
        sha256=hashlib.sha256(train).hexdigest(), git_blob=""
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            path = folder / f"{self.path[1:]}.gz"
            upstream = bool(parts_of(path.parent.name)[path.stem].url)  # not a derived file
            body = train if path.stem == "train.txt" else gzip.decompress(path.read_bytes())
            self.send_response(200 if upstream else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args) -> None:
            pass

    monkeypatch.setitem(chebi20.MOLT5_PARTS, "train", pin)
    monkeypatch.delenv("TMR_JAX_DATA")
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("TMR_JAX_MIRROR", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, asked
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.real_data
def test_the_public_rows_are_rebuilt_byte_for_byte(tmp_path, mirror, monkeypatch, capsys) -> None:
    data, asked = mirror
    assert command.main(["open"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    built = (tmp_path / "data/open_pairs/public.tsv").read_bytes().splitlines()
    head, *lines = gzip.decompress((data / "open_pairs/pairs.tsv.gz").read_bytes()).splitlines()
    kept = [line for line in lines if not FLAGS & {*line.split(b"\t")[7].split(b",")}]
    of = {name: [line for line in kept if line.startswith(name + b"\t")] for name in SOURCES}
    assert built == [head, *(line for name in SOURCES[:3] for line in of[name])]
    assert f"{len(built) - 1:,} of its {len(kept):,} training rows" in said
    for name in SOURCES[3:]:
        assert f"{len(of[name]):,} of {name.decode()}" in said
    before = len(asked)
    assert command.main(["open", "--version", "public"]) == 0 and len(asked) == before
    assert len(open_pairs.load("public")[0]) == 8_724
    captions = list(open_pairs.captions())
    monkeypatch.setenv("TMR_JAX_DATA", str(data))
    assert captions == list(open_pairs.captions()) and len(captions) == 1_041
