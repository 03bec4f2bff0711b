"""Errors a user can act on. The command line turns an `InputError` into exit code 2, anything else into 1."""


class InputError(ValueError):
    """Bad input: one sentence naming the argument, the value, and what would work."""


class UnknownNameError(InputError, KeyError):
    """A name that no registry or catalogue holds; the message lists the nearest ones."""

    __str__ = Exception.__str__  # KeyError would quote the whole sentence


def shown(value: object, limit: int = 120) -> str:
    """A value as a message quotes it: its `repr`, cut where it is longer than `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}… ({len(text):,} characters)"
