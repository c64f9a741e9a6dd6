"""The parser of every script and benchmark, and the types of its flags' values."""

import argparse
import contextlib
import re

from ..base.errors import UserError
from ..base.shapes import TOKENS


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit."""

    def __init__(self, description):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=form, allow_abbrev=False)

    def parse_args(self, args=None, namespace=None):
        given = super().parse_args(args, namespace)
        for name, value in vars(given).items():
            if name != "text" and "" in (value if isinstance(value, list) else [value]):
                raise UserError(
                    f"--{name}: is given an empty value; name one, or leave the flag out"
                )
        return given

    def error(self, message):
        message = re.sub(r"^argument (\S+): ", r"\1 ", message)
        for flag, reason in RETIRED.items():
            if message.startswith(f"unrecognized arguments: {flag}"):
                raise UserError(f"{flag}: {reason}")
        raise UserError(f"{message}; --help lists the flags")


def at_least(minimum):
    """The type of a flag that takes whole numbers from `minimum` on."""

    def whole_number(value):
        try:
            number = int(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{value}: not a whole number") from None
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{value}: must be {minimum} or more")
        return number

    return whole_number


def percent(value):
    """The type of --max_flips: a share in percent."""
    with contextlib.suppress(ValueError):
        if 0 <= float(value) <= 100:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value}: must be a number, 0 to 100 (percent)")


_ITSELF = "on openvino and torchscript the file chooses its rows by itself, on aie"
RETIRED = {  # what flags were until file format 4, and what has become of it
    "--slots": f"{_ITSELF} a row carries one sentence for every 4 tokens; leave the flag out",
    "auto": f"{_ITSELF} name the lengths, such as 16 32 64 128",
}


def length(value):
    """The type of --max_seq_length: a whole number from TOKENS on."""
    if value == "auto":
        raise argparse.ArgumentTypeError(f"{value}: {RETIRED[value]}")
    return at_least(TOKENS)(value)


def label_map(value):
    """The type of --label_map: "1=POSITIVE,0=NEGATIVE" -> {1: "POSITIVE", 0: "NEGATIVE"}."""
    names = {}
    for part in value.split(","):
        number, _, name = part.partition("=")
        number, name = number.strip(), name.strip()
        if not (number.isdecimal() and name):
            raise argparse.ArgumentTypeError(f"{part!r}: not NUMBER=NAME, such as 0=negative")
        if int(number) in names:
            raise argparse.ArgumentTypeError(f"{value}: names class {int(number)} twice")
        names[int(number)] = name
    return names
