"""`--help` of whatever can be run by hand: its imports are there, and its parser can be built."""

import re
import runpy
import sys

import pytest
from helpers import ROOT

SCRIPTS = [*sorted(path.name for path in ROOT.glob("*.py")), "demo/train.py"]
BENCHMARKS = [
    f"benchmarks.{path.stem}"
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", SCRIPTS + BENCHMARKS)
def test_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        if name.endswith(".py"):
            runpy.run_path(str(ROOT / name), run_name="__main__")
        else:
            monkeypatch.delitem(sys.modules, name, raising=False)  # runpy warns of one that is in
            runpy.run_module(name, run_name="__main__")
    said = capsys.readouterr()
    assert not ended.value.code and said.err == ""
    assert said.out.startswith("usage: ") and re.search(r"^ +--\w+", said.out, re.MULTILINE)
