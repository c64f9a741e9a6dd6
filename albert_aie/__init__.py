"""ALBERT sentence classification on an accelerator: what export_albert_aie.py and run_aie_eval.py share."""

__version__ = "0.1.0"


class UserError(Exception):
    """Something the user can put right: one sentence with the file, the line where there is one, and the cure.

    The scripts print it without a traceback and exit with code 2.
    """
