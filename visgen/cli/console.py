"""What the command says, and how a verb ends: errors become one line and an exit code, warnings one line."""

from __future__ import annotations

import errno
import functools
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from visgen.errors import InputError

DONE, INTERNAL, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
LONGEST = 500  # characters of an internal error that are told

# What the operating system answers to a path that a user mistyped; a full disk is not among them.
PATH_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
PATH_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.EINVAL, errno.ENXIO, errno.ENODEV)

# typer brings its own copy of click from 0.24 on, whose modules are private: what `BadParameter` derives from
# is the error of every mistyped command.
USAGE_ERROR: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]

# Modules that only an extra brings → the extra.
EXTRAS = {
    "accelerate": "eval",  # training asks for its own before it imports
    "braceexpand": "ray",
    "scipy": "eval",
    "torch_fidelity": "eval",
    "torchmetrics": "eval",
    "torchvision": "eval",
    "matplotlib": "compare",
    "tqdm": "eval",
    "webdataset": "ray",
    "yaml": "train",
}


@dataclass
class Settings:
    """The options that stand before the verb. One command runs per process, so one object holds them."""

    debug: bool = False
    threads: int | None = None


settings = Settings()


def say(text: str) -> None:
    """One line of results on stdout. Bytes of a file name that are no text are shown as \\udcxx."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def note(text: str) -> None:
    """One line on stderr, whatever line breaks and control characters the text had."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
    print(f"visgen: {line}", file=sys.stderr, flush=True)


class OneLineErrors(TyperGroup):
    """A group whose mistyped options and verbs are told in one line too, instead of usage and a box."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        if not args:  # prints the help
            return super().make_context(info_name, args, *rest, **extra)
        with _usage_in_one_line():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, context: Any) -> Any:
        with _usage_in_one_line():
            return super().invoke(context)


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except USAGE_ERROR as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "visgen")
        note(f"{error.format_message()} (`{command} --help` shows what works)")  # type: ignore[attr-defined]
        raise typer.Exit(BAD_INPUT) from None


def guarded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a verb: bad input ends with 2, an interrupt with 130, anything else with 1, none with a
    traceback."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            _shorten_warnings()
            try:
                return verb(*args, **kwargs)
            except (typer.Exit, BrokenPipeError):  # typer ends these quietly
                raise
            except (Exception, KeyboardInterrupt) as error:
                if settings.debug:
                    traceback.print_exc()
                code, text = verdict(error)
                note(text)
                raise typer.Exit(code) from None

    return run


def verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an exception."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, InputError):
        return BAD_INPUT, str(error)
    if isinstance(error, PATH_ERRORS) or (isinstance(error, OSError) and error.errno in PATH_ERRNOS):
        place = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, place + (error.strerror or str(error))
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return BAD_INPUT, f"this needs {error.name}: pip install 'visgen[{EXTRAS[error.name]}]'"
    told = f"{type(error).__name__}: {error}"
    told = told if len(told) <= LONGEST else f"{told[:LONGEST]}…"  # a compiler's message fills screens
    return INTERNAL, f"internal error: {told} (`visgen --debug …` shows the traceback)"


def _shorten_warnings() -> None:
    """Show what is meant for users, in one line; libraries' deprecations only with --debug."""
    if settings.debug:
        return
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what it says of a broken file, the error says again
    warnings.showwarning = lambda message, *place: note(f"warning: {message}")
