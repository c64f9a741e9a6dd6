"""requirements.txt, pyproject.toml and constraints/ say the same."""

import sys

import pytest
from helpers import ROOT
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines(path):
    """The requirements in a file for pip, without comments."""
    rows = (row.split("#")[0].strip() for row in path.read_text().splitlines())
    return [row for row in rows if row]


def wanted(python):
    """Every requirement of pyproject.toml, extras included, that goes for this Python."""
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        if not requirement.marker or requirement.marker.evaluate({"python_version": python}):
            yield requirement


def test_requirements_txt_lists_what_running_and_exporting_need_and_the_package():
    whole = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["export"], "-e ."]
    assert sorted(lines(ROOT / "requirements.txt")) == sorted(whole)
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert core == {"numpy", "sentencepiece", "tokenizers", "tqdm", "openvino"}


def test_each_requirement_has_an_upper_bound():
    for python in PYTHONS:
        for requirement in wanted(python):
            assert "<" in str(requirement.specifier), requirement


def test_each_python_has_its_constraints():
    assert sorted(file.stem for file in (ROOT / "constraints").glob("*.txt")) == sorted(
        f"py{python}" for python in PYTHONS
    )
    assert PROJECT["requires-python"] == ">=3.9,<3.14"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_each_requirement_and_nothing_else(python):
    pins = dict(line.split("==") for line in lines(ROOT / "constraints" / f"py{python}.txt"))
    requirements = list(wanted(python))
    assert set(pins) == {requirement.name for requirement in requirements}
    for requirement in requirements:
        assert requirement.specifier.contains(pins[requirement.name]), requirement
