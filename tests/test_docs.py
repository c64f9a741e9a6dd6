"""Every command of the pages is one that its script takes, of files that are there."""

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from benchmarks import server_rates

PAGES = ["README.md", "README.zh-CN.md", "Makefile", "demo/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN = [page for page in PAGES if page.endswith(".md")] + ["CONTRIBUTING.md"]
# What a reader has or names: P and D are no paths, these are.
USERS = re.compile(
    r"(\./)?(\.\./shared|albert_pytorch|dataset|prev_trained_model)/"
    r"|(X\.pt|\.\./albert_seq128_bs32\.pt|reviews\.csv|corpus/\*\.parquet)$"
)
WRITTEN = ("output", "output_dir", "save_dir", "work_dir", "report", "compare_output", "om_kit")
PATH = re.compile(r"[\w./*+-]+(/[\w.*+-]+|\.(pt|json|html|svg|csv|tsv|txt|md|parquet))")


def lines(page):
    """The lines of a page's code, continued ones joined; of the Makefile with its variables."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    if page == "Makefile":
        for name, value in re.findall(r"^(\w+) \??= (.*)$", text, re.MULTILINE):
            text = text.replace(f"$({name})", value)
        return [line[1:] for line in text.split("\n") if line.startswith("\t")]
    fenced = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return [*re.findall(r"^ {4,}(.*)$", text, re.MULTILINE), *fenced.split("\n")]


def commands(page):
    """(script as a module, its arguments) of each line that runs one of ours."""
    for line in lines(page):
        if line.startswith("make bench"):
            yield from (each for each in commands("Makefile") if each[0] == "benchmarks.peers")
        for part in re.split(r" \| | && |; ", line):
            ours = re.search(
                r"(?:^|\s|/)(?:python3? |\$\(PY\) )(?:(?:\./)?(\w[\w/]*)\.py|-m (\w[\w.]*))", part
            )
            name = ours and (ours[1] or ours[2]).replace("/", ".")
            if name and name not in ("pytest", "pip", "venv", "ruff", "tests.fuzz"):
                assert not (ours[1] or "").startswith("benchmarks"), f"{line}: needs -m"
                if not name.startswith("examples"):  # have no flags, and need FastAPI
                    yield name, shlex.split(part[ours.end() :], comments=True)


def parsed(name, argv, monkeypatch):
    """What the script's own parser makes of a command line."""
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, *argv])
    takes = inspect.signature(module.parse_args).parameters
    return vars(module.parse_args(argv) if takes else module.parse_args())


def exported(values):
    """The files that a line of export_albert_aie.py writes."""
    ending = "_packed.pt" if values["pack"] else ".pt"
    for length in values["max_seq_length"]:
        for size in values["batch_size"]:
            yield str(Path(values["save_dir"], f"albert_seq{length}_bs{size}{ending}"))


@pytest.mark.parametrize("page", PAGES)
def test_each_command_is_taken_and_its_files_are_there(page, monkeypatch):
    written = set()
    for name, argv in commands(page):
        try:
            values = parsed(name, argv, monkeypatch)
        except SystemExit as stop:
            assert stop.code == 0 and "--help" in argv, (name, argv)
            continue
        written.update(str(Path(values[key])) for key in WRITTEN if values.get(key))
        for token in argv:
            word = token.split("=", 1)[-1] if token.startswith("-") else token
            if PATH.fullmatch(word) and not USERS.match(word):
                assert (ROOT / word).exists() or str(Path(word)) in written, (
                    f"{page}: {word} is neither there nor written by a line above"
                )
        if name == "export_albert_aie":
            written.update(exported(values))
        if "Server" in (values.get("scenarios") or ()):
            written.add(str(Path(values["output_dir"], server_rates.OUTPUT)))


def test_commands_are_found():
    """The patterns above do find the pages' commands."""
    found = {page: [name for name, _ in commands(page)] for page in PAGES}
    assert found["README.md"].count("export_albert_aie") >= 4
    assert found["README.md"] == found["README.zh-CN.md"]
    assert {"export_albert_aie", "run_aie_eval", "benchmarks.peers"} <= set(found["Makefile"])
    assert "demo.train" in found["demo/README.md"]
    assert sum(map(len, found.values())) >= 40


def test_the_published_pair_is_in_both_readmes_to_the_letter():
    for page in ("README.md", "README.zh-CN.md"):
        assert lines(page)[:2] == [
            "python export_albert_aie.py --batch_size=32 --max_seq_length=128 --compare_cpu",
            "python run_aie_eval.py --aie_model_dir=albert_seq128_bs32.pt "
            "--data_dir=./albert_pytorch/dataset/SST-2",
        ]


def outline(page):
    """The levels of headings, the code, and the sizes of tables, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in text.split("\n"):
        if line.startswith("#"):
            yield line.split()[0]
        elif line.startswith("    "):
            yield line.split("  #")[0] if "python" in line else "code"
        elif line.startswith("|"):
            yield f"{line.count('|')} cells"


def test_the_chinese_readme_has_the_same_parts():
    assert list(outline("README.md")) == list(outline("README.zh-CN.md"))


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/performance.md"])
def test_a_page_that_all_read_is_short(page):
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 120


def anchors(path):
    """Of each heading what GitHub makes of it."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN)
def test_what_a_page_points_to_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists() and (not anchor or anchor in anchors(path)), f"{target}#{anchor}"
    for name in re.findall(r"`((?:albert_aie|benchmarks|tests|demo|constraints)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for name, test in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(\w+))?`", text):
        assert f"def {test}(" in (ROOT / "tests" / name).read_text(encoding="utf-8") or not test


def test_headings_that_messages_name_are_there():
    """(README, "The real job") in a message of the code."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    for path in [*ROOT.glob("*.py"), *(ROOT / "albert_aie").rglob("*.py")]:
        joined = re.sub(r"['\"]\n\s*['\"]", "", path.read_text(encoding="utf-8"))
        for name in re.findall(r'\(README, "([^"]*)"\)', joined):
            assert name in headings, f"{path}: {name}"


@pytest.mark.slow
def test_the_commands_that_need_the_demo_alone_run(tmp_path):
    """README's quick start, in a folder that holds demo/ and nothing else."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    need_demo = [
        (name, argv)
        for name, argv in commands("README.md")
        if "demo/SST-2" in argv or "outputs/demo/albert_seq128_bs32.pt" in argv
    ]
    assert len(need_demo) == 3
    for name, argv in need_demo:
        done = subprocess.run([sys.executable, ROOT / f"{name}.py", *argv], cwd=tmp_path)
        assert done.returncode == 0, argv
