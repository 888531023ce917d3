"""A model in a file of your own: --model.name mine.py:Model.

A run keeps a copy of the file. To read a model is to run its code, so a run that somebody sent you
could do anything. Only files named by --model.name are run without more: the copy in a run is run
where the environment variable TMR_JAX_TRUST has its SHA-256, which the error message gives.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from tmr_jax.data.files import replaced
from tmr_jax.models.runtime import CODE
from tmr_jax.types import UserError, did_you_mean

TRUST = "TMR_JAX_TRUST"
_TRUSTED: set[str] = set()  # SHA-256 of the files that this process was asked to run


def own_class(name: str, run: Path | None = None) -> type:
    """The class `FILE.py:CLASS`, from the copy in `run` where there is one.

    Raises UserError where the file or the class is missing, the code fails, or is not trusted.
    """
    path, kind = _split(name)
    path = path if run is None else run / CODE
    code = _read(path)
    sha256 = hashlib.sha256(code).hexdigest()
    if run is None:
        _TRUSTED.add(sha256)
    elif sha256 not in _TRUSTED | {*os.environ.get(TRUST, "").split(",")}:
        raise UserError(
            f"expected a model of tmr_jax in {run}; got code of its own in {path}, which could do "
            f"anything on this machine; read it, then run: export {TRUST}={sha256}"
        )
    module = _module(path, code, f"tmr_jax_own_{sha256[:16]}")
    found = getattr(module, kind, None)
    if not isinstance(found, type):
        has = [n for n, value in vars(module).items() if isinstance(value, type)]
        hint = did_you_mean(kind, has, "it has {}") if has else "it has none"
        raise UserError(f"expected a class {kind!r} in {path}; found no such class; {hint}")
    return found


def keep_code(run: Path, name: str) -> None:
    """Copies the file of a model to its run. Raises UserError where the run has another one."""
    path, kept = _split(name)[0], run / CODE
    code = read_code(name)
    if not kept.exists():
        with replaced(kept) as partial:
            partial.write_bytes(code)
    elif code != kept.read_bytes():
        raise UserError(
            f"expected {path} as it was when the training of {run} began ({kept}); got another "
            "content; restore it, or choose another --run, or --fresh"
        )


def read_code(name: str) -> bytes:
    """The content of the file `FILE.py:CLASS`; UserError where there is no such file."""
    return _read(_split(name)[0])


def _split(name: str) -> tuple[Path, str]:
    file, _, kind = name.rpartition(":")
    return Path(file), kind


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(
            f"expected a model in the file {path}; found no such file; write --model.name "
            "FILE.py:CLASS"
        )
    return path.read_bytes()


class _Code(SourceLoader):
    """Loads exactly the bytes that were checked, and no compiled file next to them."""

    def __init__(self, path: Path, code: bytes) -> None:
        self._path, self._code = path, code

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str) -> bytes:
        return self._code


def _module(path: Path, code: bytes, name: str) -> ModuleType:
    """The file as a module, run once for each content."""
    if name not in sys.modules:
        loader = _Code(path, code)
        spec = spec_from_loader(name, loader)
        assert spec is not None
        sys.modules[name] = module = module_from_spec(spec)  # where flax looks up annotations
        try:
            loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(path)]
            place = f" in line {lines[-1]}" if lines else ""
            raise UserError(
                f"expected Python code in {path}; got {type(error).__name__}{place}: {error}; "
                "correct it"
            ) from error
    return sys.modules[name]
