"""The console script `tmr`, and what every command shares: streams, signals, errors, arguments.

`tmr VERB ARGS` is `python -m tmr_jax VERB ARGS`, too. Exit status of every command: 0 done; 1 it
failed; 2 an error of yours, explained on standard error; 3 another process works there; 130 and 143
after Ctrl-C and SIGTERM, 141 where the reader of its output has gone.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, get_type_hints

from tmr_jax import __version__
from tmr_jax.types import CommandFailed, did_you_mean

VERBS = {
    "train": "train an experiment: tmr train --exp quickstart",
    "eval": "evaluate a run: tmr eval --run runs/quickstart",
    "search": 'search a file: tmr search --library my.smi "an amine"',
    "index": "build an index: tmr index --library my.smi --out lib",
    "embed": "write the vectors of a file: tmr embed my.smi --out my.parquet",
    "serve": "serve a page and an API: tmr serve --library my.smi",
    "mcp": "let an agent search: tmr mcp --library my.smi",
    "compare": "compare two runs query by query: tmr compare runs/one runs/two",
    "facts": "teach a run to rerank by facts: tmr facts --run runs/quickstart",
    "lexical": "give a run a linear branch: tmr lexical --run runs/quickstart",
    "export": "write a run's weights for others: tmr export runs/quickstart weights",
    "table": "run what a table of results lacks: tmr table --name smoke",
    "data": "download a public data set and verify it: tmr data chebi20",
    "cache": "list what is kept to save time, or clear it: tmr cache --clear",
}

MODULES = {
    "cache": "data.cache",
    "compare": "eval.compare",
    "embed": "index.embed",
    "export": "eval.export",
    "facts": "train.facts",
    "lexical": "train.lexical",
    "mcp": "serve.mcp",
}  # of verbs that are no room of their own

DAMAGED = (UnicodeDecodeError, json.JSONDecodeError)  # a file that is not what it was


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of the command that the first argument names; 2 where there is no such one."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if args[:1] == ["--version"]:
        print(f"tmr_jax {__version__}")
        return 0
    if not args or args[0] in ("-h", "--help", "help"):
        lines = [f"  tmr {verb:<7} {about}" for verb, about in VERBS.items()]
        title = "Text-molecule retrieval in JAX"
        print("\n".join([title, "", *lines, "", "Options of a verb: tmr VERB --help"]))
        return 0
    verb, *rest = args
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS)
        print(f"error: expected a verb, got {verb!r}; {hint}", file=sys.stderr)
        return 2
    return importlib.import_module(f"tmr_jax.{MODULES.get(verb, f'{verb}.__main__')}").main(rest)


# What every command does first and last


def run(
    verb: str,
    work: Callable[[list[str]], int],
    arguments: Sequence[str] | None,
    resumable: bool = False,
    expected: tuple[type[Exception], ...] = (),
) -> int:
    """Exit status of `work(arguments)`, or of the error or signal that ended it.

    A `CommandFailed` is printed as "error: ..." and exits with its own status. Exceptions of the
    classes in `expected`, and of damaged files, are printed likewise and exit with 2. Any other
    exception is a bug and keeps its traceback. `resumable` commands print how to resume after a
    signal.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the locale may lack letters of a path or a name
            stream.reconfigure(errors="backslashreplace")
    try:
        with Signals():
            status = work(args)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except (*expected, *DAMAGED) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        again = shlex.join(arg for arg in args if arg != "--fresh")
        how = f"; to resume: tmr {verb} {again}" if resumable else ""
        print(f"stopped by {stop}{how}", file=sys.stderr, flush=True)
        return 128 + stop.number


def parse(
    options: Any,
    verb: str,
    args: list[str],
    default: Any = None,
    config: tuple[Any, ...] = (),
    brief: Any = None,
) -> Any:
    """`options` (a dataclass) filled from the command line; exits with 2 on an unknown option.

    With `brief`, a dataclass of the few options that most users need, --help prints those and a
    list of sections, and --help-all prints everything.
    """
    import tyro

    prog = f"tmr {verb}"
    if "--help-all" in args:
        args, brief = ["--help"], None
    if brief is not None and {"-h", "--help"} & {*args}:
        try:
            tyro.cli(brief, args=["--help"], prog=prog, description=options.__doc__, config=config)
        finally:  # tyro exits
            print(f"More options by section; {prog} --help-all explains each:")
            for name, about, count in sections(options):
                print(f"  --{name.replace('_', '-') + '.*':<22}{count:>3}  {about}")
    return tyro.cli(options, args=args, prog=prog, default=default, config=config)


def sections(options: Any, prefix: str = "") -> Iterator[tuple[str, str, int]]:
    """Name, first line of the text and number of options of each nested dataclass."""
    for field, kind in get_type_hints(options, include_extras=True).items():
        extras = getattr(kind, "__metadata__", ())
        kind = getattr(kind, "__origin__", kind) if extras else kind
        if dataclasses.is_dataclass(kind):
            name = prefix + next((extra.name for extra in extras), field)
            count = sum(not dataclasses.is_dataclass(f) for f in get_type_hints(kind).values())
            if name:
                yield name, (kind.__doc__ or "").splitlines()[0], count
            yield from sections(kind, name and name + ".")


# Signals


AGAIN = 0.05  # seconds until a signal that Python ignored is sent again


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Ctrl-C and SIGTERM raise `Stopped` at once, or inside `deferred` when `check` is called."""

    def __init__(self) -> None:
        self._on_signal: Callable[[int], object] | None = None
        self.number = 0  # of the signal that arrived while signals were deferred; 0: none
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._ignored
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            sys.unraisablehook = self._hook

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child ends as it would without us
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self._on_signal is None and not self.number:
            raise Stopped(number)
        (self._on_signal or self._announce)(number)
        # Of two pending signals Python delivers the lower number first, SIGINT before SIGTERM,
        # whatever their order, but the sender of SIGTERM relies on its exit status.
        self.number = max(self.number, number)

    def _ignored(self, raised: sys.UnraisableHookArgs) -> None:
        """Python ignores what is raised while it frees an object: the signal comes once more."""
        if isinstance(raised.exc_value, Stopped):
            again = (self._process, raised.exc_value.number)
            threading.Timer(AGAIN, os.kill, again).start()
        else:
            self._hook(raised)

    def _announce(self, number: int) -> None:
        name = signal.Signals(number).name
        text = "still saving, please wait" if self.number else f"{name}: ending after this step"
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def deferred(self, on_signal: Callable[[int], object] | None = None) -> Iterator[None]:
        """Inside the block signals wait for `check`; each is passed to `on_signal` as it comes."""
        self._on_signal = on_signal or self._announce
        try:
            yield
        finally:
            self._on_signal = None

    def share(self, any_process: Callable[[bool], bool]) -> None:
        """All processes of a training call it together: a signal to one of them counts for all."""
        if any_process(bool(self.number)) and not self.number:
            self.number = signal.SIGTERM

    def check(self, _: int = 0) -> None:
        """Raises `Stopped` if a signal arrived while signals were deferred."""
        if self.number:
            raise Stopped(self.number)


def printable(text: str) -> str:
    """Text without characters that could control a terminal or end a field."""
    return "".join(c if c.isprintable() else " " for c in text)


if __name__ == "__main__":
    sys.exit(main())
