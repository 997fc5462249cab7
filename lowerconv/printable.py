"""Text from outside, such as names of files, as it can be printed anywhere."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Return a text on one line, with what cannot be shown escaped as in Python's strings.

    That is bytes of names that are no UTF-8, control characters, line breaks, and marks that
    change the order of what follows.

    Examples
    --------
    >>> print(printable("M\udcfcnchen\n"))
    M\udcfcnchen\n
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def printable_lines(text: object, encoding: str | None = None) -> str:
    """Return a text whose line breaks are meant, each line as `printable` does.

    Parameters
    ----------
    text : object
    encoding : str, optional
        Of where it goes: what that lacks is escaped too.
    """
    shown = "\n".join(map(printable, str(text).split("\n")))
    if encoding is None:
        return shown
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def drawable(text: object) -> str:
    """Return a text as matplotlib draws it: dollars do not begin formulas."""
    return printable(text).replace("$", r"\$")
