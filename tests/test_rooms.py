"""The plan of the house: which room may import which, and by what its face names."""

import ast
from pathlib import Path

import pytest
from helpers import ROOT, python

PACKAGE = ROOT / "albert_aie"
# Besides base, which all may; CONTRIBUTING.md shows the same table.
MAY = {
    "base": (),
    "text": (),
    "data": (),
    "albert": ("text",),
    "backends": ("albert",),
    "artifact": ("backends", "data", "text"),
    "run": ("artifact", "backends", "albert", "data"),
    "report": ("run", "artifact", "albert", "data"),
    "corpus": ("run", "artifact", "data"),
    "cli": ("run", "backends", "data", "text"),
}
FACES = {
    room: ast.literal_eval(
        next(
            node.value
            for node in ast.parse((PACKAGE / room / "__init__.py").read_text()).body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        )
    )
    for room in MAY
}


def imports(path):
    """(line, room, module in it or "", name) of each import of a room's."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = [*above, *filter(None, (node.module or "").split("."))]
            for name in node.names:
                where = [*module, name.name]
                if where[0] == "albert_aie" and where[1] in MAY:
                    yield node.lineno, where[1], where[2:]


def files(*folders):
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [*found, *sorted(ROOT.glob("*.py"))]


def test_every_folder_is_a_room():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(MAY) and len(MAY) <= 11


@pytest.mark.parametrize("room", MAY)
def test_arrows_point_down(room):
    used = {
        other
        for path in (PACKAGE / room).rglob("*.py")
        for _, other, _ in imports(path)
        if other not in (room, "base")
    }
    assert used == set(MAY[room])


def test_there_are_few_arrows():
    order = list(MAY)
    assert all(order.index(other) < order.index(room) for room in MAY for other in MAY[room])
    assert sum(len(others) for others in MAY.values()) + len(MAY) - 1 <= 32  # and base


def test_only_what_a_face_names_is_used_from_outside():
    strangers = [
        f"{path.relative_to(ROOT)}:{line}: {'.'.join([room, *names])}"
        for path in files("albert_aie", "benchmarks", "examples")
        for line, room, names in imports(path)
        if room not in path.relative_to(ROOT).parts[:-1]
        and names
        and (names[0] not in FACES[room] or names[-1].startswith("_") != names[-1].endswith("__"))
    ]
    assert not strangers, "\n".join(strangers)


def test_a_face_loads_no_engine():
    rooms = "; ".join(f"import albert_aie.{room}" for room in MAY)
    found = "sorted({'torch', 'openvino', 'onnxruntime', 'transformers'} & set(sys.modules))"
    run = python("-c", f"import sys; {rooms}; print({found})")
    assert (run.out, run.err) == ("[]\n", "")


def test_the_table_in_contributing_is_this_one():
    text = Path(ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room, others in MAY.items():
        assert f"| {room} | {', '.join(others) or 'nothing'} |" in text, room
