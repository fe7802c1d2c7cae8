"""The manual page, rawservers(1): manual.1.in, with the options from the command line."""

from __future__ import annotations

from pathlib import Path

from rawservers import __version__
from rawservers.cli import DESCRIPTION, EPILOG
from tools.options import Option, options

TEMPLATE = Path(__file__).with_name("manual.1.in")


def page() -> str:
    """The page, in the man macros of groff(7)."""
    text = TEMPLATE.read_text()
    parts = {
        "VERSION": __version__,
        "SYNOPSIS": "\n".join(usage(each) for each in sorted(options(), key=lambda each: not each.names)),
        "DESCRIPTION": roff(DESCRIPTION),
        "OPTIONS": "\n".join(f".TP\n{heading(each)}\n{roff(sentence(each.help))}" for each in options()),
        "ADDRESSES": roff(EPILOG).replace(". ", ".\n"),
    }
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def roff(text: str) -> str:
    """Text, with what groff would take for a request, an escape or a hyphen."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def usage(option: Option) -> str:
    """It in the synopsis."""
    value = f" \\fI{roff(option.value_name)}\\fR" if option.value else ""
    if option.is_value_optional:
        value = f" [{value.strip()}]"
    names = "|".join(f"\\fB{roff(name)}\\fR" for name in option.names)
    return f"[{(names + value).strip()}]{' ...' * option.is_repeatable}"


def heading(option: Option) -> str:
    """It above its description: all its names, in bold, and its value in italics."""
    value = roff(option.value_name)
    value = f"[\\fI{value}\\fR]" if option.is_value_optional else f"\\fI{value}\\fR" if value else ""
    return ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names) + f" {value}" * bool(value) if option.names else value
