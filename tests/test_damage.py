"""Damaged files: a .pt, or a checkpoint, of which something was changed gives the same numbers as
before or is refused; never others."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import zipfile

import numpy
import pytest
import torch
from helpers import SPM, change_weights, logits, refused, rewrite, static, tokens, write_checkpoint

from albert_aie.albert import checkpoint, weights
from albert_aie.artifact import pt_file
from albert_aie.artifact.manifest import digest
from albert_aie.artifact.pt_file import open_pt
from albert_aie.backends import runner
from albert_aie.base import files
from albert_aie.base.archive import Archive, Damaged
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape

SHAPE = {"batch_size": 4, "max_seq_length": 32}
NAME = "albert_seq32_bs4.pt"


@pytest.fixture(scope="module")
def encoded(tiny, sentences):
    return tokens(checkpoint.load(tiny).tokenizer, sentences, length=32)


def test_entries_are_hashed_in_several_threads(tmp_path, monkeypatch):
    """Compressed ones go through zipfile, which on Python 3.13.0 takes one thread's place in the
    file for another's. torch's entries have the extra field that brings it out."""
    contents = {f"{i}": random.Random(i).randbytes(20) * 300 for i in range(40)}
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"x/{name}")
            entry.extra = b"FB\x08\x00" + b"Z" * 8
            file.writestr(entry, content, zipfile.ZIP_DEFLATED if int(name) % 4 else None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            with Archive(tmp_path / "x.pt") as archive:
                found = archive.sha256(archive.names)
            assert found == {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()}
    finally:
        sys.setswitchinterval(interval)


def flip(data, bit):
    data[bit // 8] ^= 1 << bit % 8


def flipped(good, path, directory, seed):
    """200 times, a bit of the good bytes is flipped in the file: 60 anywhere, and 140 behind the
    byte where a zip's directory begins."""
    generator = random.Random(seed)
    anywhere = [generator.randrange(8 * len(good)) for _ in range(60)]
    behind = [generator.randrange(8 * directory, 8 * len(good)) for _ in range(140)]
    for bit in anywhere + behind:
        data = bytearray(good)
        flip(data, bit)
        path.write_bytes(data)
        yield


def where(path, name):
    """(first byte, size) of the content of an entry in a .pt."""
    with zipfile.ZipFile(path) as opened:
        entry = next(e for e in opened.infolist() if e.filename.endswith(name))
        with opened.open(entry) as content:
            return content._fileobj._pos, entry.compress_size


# The .pt


def test_the_manifest_comes_last_and_vouches_for_every_other_entry_and_for_itself(made_by):
    """By the recipe of docs/file-format.md, and torch reads it as one of its own extra files."""
    with zipfile.ZipFile(made_by["openvino"]) as opened:
        *others, last = [name.split("/", 1)[1] for name in opened.namelist()]
        content = {name.split("/", 1)[1]: opened.read(name) for name in opened.namelist()}
    manifest = json.loads(content[last])
    assert last == "extra/albert_aie/manifest.json" and manifest["format_version"] == 4
    assert manifest["entries"] == {n: hashlib.sha256(content[n]).hexdigest() for n in others}
    known = manifest.pop("sha256")
    rest = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert known == hashlib.sha256(rest.encode()).hexdigest()
    extra = {"albert_aie/manifest.json": ""}
    torch.jit.load(str(made_by["openvino"]), _extra_files=extra)
    assert json.loads(extra["albert_aie/manifest.json"])["entries"] == manifest["entries"]


def test_changed_constants_are_refused_wherever_they_lie(
    tmp_path, compiled, sentences, evaluate, monkeypatch
):
    """512 bytes of a weight: torch.jit.load takes them, and up to 175 of 200 labels flip."""
    good = compiled.read_bytes()
    start, size = where(compiled, "constants/1")
    path, generator = tmp_path / NAME, random.Random(0)
    for _ in range(20):
        data = bytearray(good)
        at = start + generator.randrange(size - 512)
        data[at : at + 512] = generator.randbytes(512)
        path.write_bytes(data)
        with pytest.raises(UserError, match="constants/1 not as written"):
            open_pt(path)
    monkeypatch.setattr(torch.jit, "load", None)  # refused before anything is loaded
    run = evaluate(aie_model_dir=path, data_dir=sentences)
    assert refused(run, NAME, "constants/1", "export the file again") and run.out == ""


def test_a_flipped_bit_anywhere_in_a_pt_is_refused_or_changes_no_number(
    tmp_path, compiled, encoded
):
    """In the weights, the program, the zip's own headers and directory."""
    good, shape = compiled.read_bytes(), Shape(4, 32)
    wanted = logits(torch.jit.load(str(compiled)), encoded, shape)
    directory = good.rindex(b"PK\x01\x02", 0, good.index(b"PK\x01\x02") + 4)
    path, accepted = tmp_path / NAME, 0
    for _ in flipped(good, path, directory, 1):
        with contextlib.suppress(UserError):
            program = open_pt(path).program()
            numpy.testing.assert_array_equal(logits(program, encoded, shape), wanted)
            accepted += 1
    assert accepted < 130  # what is left is dates, versions and attributes of the zip's directory


def as_directory(path, name):
    """Set one bit: the directory's entry of a zip for `name` is now that of a folder. torch reads
    it without an error, and leaves the weight as its memory was before."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode() + b"PK\x01\x02") - 46  # its entry in the directory
    entry = data.rindex(b"PK\x01\x02", 0, entry + 46)
    data[entry + 38] |= 0x10
    path.write_bytes(data)


def test_an_entry_that_is_marked_as_a_directory_is_refused(tmp_path, compiled, tiny, export):
    path = tmp_path / NAME
    shutil.copy(compiled, path)
    as_directory(path, "/constants/1")
    with pytest.raises(UserError, match="constants/1 is marked as a directory"):
        open_pt(path)
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny, folder)
    as_directory(folder / "pytorch_model.bin", "/data/1")
    run = export(pth_dir=folder, save_dir=tmp_path, backend="torchscript", **SHAPE)
    assert refused(run, "pytorch_model.bin", "data/1 is marked as a directory")


@pytest.mark.parametrize("name", ["tokenizer.model", "ir.bin", "ir.xml", "manifest.json"])
def test_a_flipped_bit_in_an_extra_file_is_refused(tmp_path, made_by, name):
    start, size = where(made_by["openvino"], "/" + name)
    data = bytearray(made_by["openvino"].read_bytes())
    flip(data, 8 * (start + size // 2) + 1)
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(UserError, match=name):
        open_pt(tmp_path / NAME)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "drop, before, after, words",
    [
        ("constants/1", None, None, "constants/1 not as written"),
        ("constants/2", None, "constants/2", "constants/2 not as written"),
        (None, None, "constants/99", "constants/99 not as written"),
        (None, None, "extra/albert_aie/more", "more not as written"),
        # torch and we might read different ones
        (None, None, "constants/1", "not those of one torch archive"),
        (None, "constants/1", None, "not those of one torch archive"),
    ],
)
def test_an_entry_that_is_missing_another_or_one_too_many_is_refused(
    tmp_path, compiled, drop, before, after, words
):
    """Though its CRC is right: the manifest of the original stands behind it."""
    path = tmp_path / NAME
    with zipfile.ZipFile(compiled) as old, zipfile.ZipFile(path, "w") as new:
        if before:
            new.writestr(f"archive/{before}", b"another")
        for entry in old.infolist():
            if entry.filename != f"archive/{drop}":
                new.writestr(entry.filename, old.read(entry), compress_type=entry.compress_type)
        if after:
            new.writestr(f"archive/{after}", b"another")
    with pytest.raises(UserError, match=words):
        open_pt(path)


@pytest.mark.parametrize("names", [("a/x", "b/y"), ("a/x", "y"), ("a/x", "ab/y"), ()])
def test_entries_that_lie_in_no_one_folder_are_refused(tmp_path, names):
    """Of two of one name below two folders torch reads one, and a digest is of the other."""
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    with pytest.raises(Damaged, match="^its entries are not those of one torch archive$"):
        Archive(tmp_path / NAME)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"label_names": ["positive", "negative"]}, "classes .* and positive, negative"),
        ({"task": "CoLA"}, "task SST-2 and CoLA"),
        ({"precision": "bf16"}, "precision fp32 and bf16"),
        ({"backend": "openvino"}, "backend torchscript on cpu and openvino on cpu"),
    ],
)
def test_files_that_are_used_together_are_alike(tmp_path, compiled, change, words):
    one = rewrite(compiled, tmp_path / "1.pt", {"free_sizes": False})
    shape = {"free_sizes": False, "batch_size": 1, **change}
    two = rewrite(compiled, tmp_path / "2.pt", shape)
    with pytest.raises(UserError, match=f"not of one model, {words}; name files that were"):
        pt_file.open_all([one, two])


def test_files_of_two_tokenizers_are_not_used_together(tmp_path, compiled):
    other = SPM.read_bytes().replace("\u2581film".encode(), "\u2581qxzj".encode())
    source = pt_file.open_pt(compiled).manifest["source"]
    source = {**source, "tokenizer_sha256": hashlib.sha256(other).hexdigest()}
    one = rewrite(compiled, tmp_path / "1.pt", {"free_sizes": False})
    change = {"extra/albert_aie/tokenizer.model": other}
    given = {"free_sizes": False, "batch_size": 1, "source": source}
    two = rewrite(compiled, tmp_path / "2.pt", given, change=change)
    with pytest.raises(UserError, match="not of one model, tokenizer"):
        pt_file.open_all([one, two])


def test_of_files_that_are_used_together_the_longest_row_comes_first(tmp_path, compiled):
    """It says where a sentence is cut; their order says nothing."""
    shapes = (Shape(8, 16), Shape(1, 32))
    paths = [static(compiled, tmp_path / f"{shape.batch_size}.pt", shape) for shape in shapes]
    for given in (paths, paths[::-1]):
        saved = pt_file.open_all(given)
        assert (saved.path, saved.shape, saved.shapes) == (paths[1], shapes[1], shapes)


def test_a_tokenizer_with_an_option_of_a_later_version_is_refused(tmp_path, compiled):
    later = {"kind": "spm", "options": {"do_lower_case": True, "from_2030": True}}
    path = rewrite(compiled, tmp_path / NAME, {"tokenizer": later})
    with pytest.raises(UserError, match="names a tokenizer that this program does not have"):
        pt_file.open_pt(path)


def test_a_digest_is_of_the_whole_of_each_file_in_their_order(tmp_path):
    contents = [bytes([number]) * size for number, size in enumerate((3 << 20, 1, 0, 1 << 20))]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    assert files.sha256(*paths) == hashlib.sha256(b"".join(contents)).hexdigest()
    assert files.sha256(paths[0]) == hashlib.sha256(contents[0]).hexdigest()


def test_a_tokenizer_that_was_exchanged_is_refused(tmp_path, compiled, sentences, evaluate):
    """Every digest and CRC is right, but the file was made with another."""
    other = SPM.read_bytes().replace("\u2581film".encode(), "\u2581qxzj".encode())
    change = {"extra/albert_aie/tokenizer.model": other}
    path = rewrite(compiled, tmp_path / NAME, change=change)
    run = evaluate(aie_model_dir=path, data_dir=sentences)
    assert refused(run, "its tokenizer is not the one it was made with") and run.out == ""


@pytest.mark.parametrize("backend", ["torchscript", "openvino"])
def test_a_file_of_format_3_is_refused_unless_it_was_compiled_for_a_card(
    tmp_path, made_by, sentences, evaluate, backend
):
    path = rewrite(made_by[backend], tmp_path / NAME, {"format_version": 3})
    run = evaluate(aie_model_dir=path, data_dir=sentences)
    assert refused(run, f"{path}: format version 3, this program reads 4; export the file again")
    card = {"backend": "aie", "device": "npu", "precision": "fp16", "format_version": 3}
    opened = open_pt(rewrite(made_by[backend], path, card))
    assert opened.target == ("aie", "npu", "fp16", {}) and opened.shapes == (Shape(4, 32),)
    with pytest.raises(UserError, match="format version 2, this program"):
        open_pt(rewrite(made_by[backend], path, {**card, "format_version": 2}))


def test_digests_of_what_is_stored_cost_one_pass_over_the_file(made_by, monkeypatch):
    """zipfile would compute a CRC of every byte besides: 90 MB in under 0.1 s only without."""
    opened, real = [], zipfile.ZipFile.open

    def count(self, entry, *rest):
        opened.append(getattr(entry, "filename", entry))
        return real(self, entry, *rest)

    monkeypatch.setattr(zipfile.ZipFile, "open", count)
    open_pt(made_by["openvino"])
    assert not [name for name in opened if "constants/" in name or name.endswith("ir.bin")]


def test_a_pt_that_is_cut_short_foreign_or_newer(tmp_path, compiled, sentences, evaluate):
    def run(path):
        return evaluate(aie_model_dir=path, data_dir=sentences)

    cut = tmp_path / "cut.pt"
    cut.write_bytes(compiled.read_bytes()[:-5000])
    assert refused(run(cut), "cut.pt: not a whole .pt file")
    cut.write_bytes(b"not a zip")
    assert refused(run(cut), "not a whole .pt file")
    foreign = tmp_path / "foreign.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(foreign))
    assert refused(run(foreign), "has no albert_aie/manifest.json")
    path = tmp_path / "changed.pt"
    listless = {"format": "albert_aie", "format_version": 4, "entries": [1]}
    listless["sha256"] = digest(listless)
    swapped = json.loads(zipfile.ZipFile(compiled).read(f"archive/{pt_file.MANIFEST}"))
    swapped["label_names"] = swapped["label_names"][::-1]  # its digest is the old one
    assert refused(run(path), f"{path}: no such file; write it with export_albert_aie.py and name")
    for manifest, words in (
        (json.dumps(listless).encode(), "not as it was written"),
        (json.dumps(swapped).encode(), "not as it was written"),
        ({"format_version": 99}, "format version 99"),
        ({"format": "other"}, "another program's"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": "\\ud800"}', "not JSON"),
        (b"[]", "another program's"),
        (b'{"format": "albert_aie", "format_version": 4}', "not as it was written"),
        (b'{"format": "albert_aie", "format_version": "4"}', "format version 4, this program"),
    ):
        assert refused(run(rewrite(compiled, path, manifest)), words)
    rewrite(compiled, path, drop=["extra/albert_aie/tokenizer.model"])
    assert refused(run(path), "has no albert_aie/tokenizer.model")
    assert run(rewrite(compiled, path)).code == 0  # the helper itself breaks nothing


@pytest.mark.parametrize(
    "change, word",
    [
        ({"backend": "tpu"}, "backend"),
        ({"device": "npu"}, "backend"),
        ({"precision": "int8"}, "precision"),
        ({"precision": None}, "precision"),
        ({"task": "SST-3"}, "task"),
        ({"tokenizer": {"kind": "bpe", "options": {}}}, "tokenizer"),
    ],
)
def test_a_manifest_that_names_what_is_not_there_is_refused(
    tmp_path, compiled, sentences, evaluate, change, word
):
    path = rewrite(compiled, tmp_path / NAME, change)
    run = evaluate(aie_model_dir=path, data_dir=sentences)
    words = f"{NAME}: its manifest names a {word} that this program does not have; export the file"
    assert refused(run, words) and run.out == ""


def test_a_manifest_of_another_form_is_refused(tmp_path, compiled, sentences, evaluate):
    for change in ({"tokenizer": None}, {"task": ["x"]}):
        path = rewrite(compiled, tmp_path / NAME, change)
        assert refused(
            evaluate(aie_model_dir=path, data_dir=sentences), "its manifest", pt_file.AGAIN
        )


def test_a_seal_is_written_for_people_and_its_digest_is_of_the_least_json(tmp_path):
    """sha256 of the manifest without its own, worked out here."""
    path, entry = tmp_path / "a.pt", b"of the archive"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data", entry)
    pt_file.seal(path, {"format": "é", "batch": [1, 2]})
    digest = hashlib.sha256(entry).hexdigest()
    least = '{"batch":[1,2],"entries":{"data":"' + digest + '"},"format":"é"}'
    own = hashlib.sha256(least.encode()).hexdigest()
    with zipfile.ZipFile(path) as file:
        written = file.read("a/extra/albert_aie/manifest.json").decode()
    assert written == (
        '{\n "format": "é",\n "batch": [\n  1,\n  2\n ],\n "entries": {\n  "data": "'
        + digest
        + '"\n },\n "sha256": "'
        + own
        + '"\n}'
    )


def test_names_of_the_classes_of_an_opened_file(tmp_path, compiled):
    """By label_map too; what is wrong names the file."""
    opened = open_pt(compiled)
    assert opened.classes() == ("negative", "positive")
    assert opened.classes({0: "positive", 1: "negative"}) == ("positive", "negative")
    with pytest.raises(UserError, match=f"^--label_map 2=...: {opened.path} has 2 classes"):
        opened.classes({2: "positive"})


def test_errors_of_reading_name_the_file(tmp_path, compiled):
    opened = open_pt(compiled)
    with pytest.raises(UserError, match=f"^{opened.path}: has no albert_aie/ir.xml inside"):
        opened.blob("ir.xml")
    path = rewrite(
        compiled, tmp_path / NAME, change={"version": b"999\n", ".data/version": b"999\n"}
    )
    with pytest.raises(UserError, match=f"^{path}: its program cannot be loaded .*export the file"):
        open_pt(path).program()


def test_a_program_is_loaded_on_the_device_that_is_asked_for(monkeypatch, tmp_path, compiled):
    """And from memory where the name is not UTF-8, which torch.jit.load does not take."""
    asked = []

    def load(file, map_location):
        asked.append((file if isinstance(file, str) else file.getvalue(), map_location))

    monkeypatch.setattr(torch.jit, "load", load)
    good = compiled
    open_pt(good).program("cuda")
    odd = tmp_path / "\udcff.pt"
    shutil.copy(good, odd)
    open_pt(odd).program()
    assert asked == [(str(good), "cuda"), (good.read_bytes(), "cpu")]


@pytest.mark.parametrize("backend", ["torchscript", "openvino"])
@pytest.mark.parametrize("lie", ["max_seq_length", "slots", "labels", "precision"])
def test_a_manifest_that_is_not_that_of_its_program_is_refused_before_the_work(
    tmp_path, made_by, sentences, evaluate, backend, lie
):
    """It makes sense and its digests are right; only the program is another one."""
    config = open_pt(made_by[backend]).manifest["config"]
    names = ["negative", "neutral", "positive"]
    change = {
        "max_seq_length": {"max_seq_length": 64},
        "slots": {"slots": 2, "free_sizes": False},
        "labels": {
            "label_names": names,
            "config": {**config, "num_labels": 3, "label_names": names},
        },
        "precision": {"precision": {"torchscript": "bf16", "openvino": "int8"}[backend]},
    }[lie]
    path = rewrite(made_by[backend], tmp_path / NAME, change)
    run = evaluate(aie_model_dir=path, data_dir=sentences, output_dir=tmp_path / "out")
    assert refused(run, NAME, "its manifest says", "export the file again") and run.out == ""
    assert not list((tmp_path / "out").glob("*.json"))


def test_logits_of_another_shape_are_refused_though_they_are_as_many(compiled):
    saved = open_pt(compiled)
    runner.check_logits(numpy.zeros((4, 2)), saved, Shape(4, 32))
    for shape in ((2, 4), (4, 2, 1), (4, 1), (8,)):
        with pytest.raises(UserError, match="its manifest says logits of"):
            runner.check_logits(numpy.zeros(shape), saved, Shape(4, 32))


def test_a_file_that_is_replaced_after_it_was_verified_is_refused(tmp_path, made_by):
    """Another export into the folder: the manifest of one file, the program of the other."""
    for backend, read in (
        ("torchscript", lambda saved: saved.program()),
        ("openvino", lambda saved: saved.blob("ir.bin")),
    ):
        path = shutil.copy(made_by[backend], tmp_path / NAME)
        saved = open_pt(path)
        read(saved)
        shutil.copy(made_by[backend], tmp_path / "new.pt")
        os.replace(tmp_path / "new.pt", path)
        with pytest.raises(UserError, match="was replaced while it was being read"):
            read(saved)
        saved, status = open_pt(path), os.stat(path)  # written to where it lies
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
        with pytest.raises(UserError, match="was replaced while it was being read"):
            read(saved)


def test_an_input_dtype_that_no_program_takes_is_refused(compiled):
    from albert_aie.backends import aie

    saved = open_pt(compiled)
    with pytest.raises(UserError, match="its manifest says inputs of None"):
        aie.AieRunner(saved, None, 0)


# A checkpoint's zip


def test_a_flipped_bit_in_a_checkpoints_zip_is_refused_or_changes_no_number(tmp_path, tiny):
    good = (tiny / "pytorch_model.bin").read_bytes()
    wanted, path = weights.read(tiny / "pytorch_model.bin"), tmp_path / "pytorch_model.bin"
    accepted = 0
    for _ in flipped(good, path, good.index(b"PK\x01\x02"), 2):
        with contextlib.suppress(UserError):
            found = weights.read(path)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
            accepted += 1
    assert accepted < 140


def test_a_flipped_bit_in_a_weight_is_one_sentence(tmp_path, export):
    folder = write_checkpoint(tmp_path / "c")
    data = bytearray((folder / "pytorch_model.bin").read_bytes())
    flip(data, 4 * len(data))
    (folder / "pytorch_model.bin").write_bytes(data)
    run = export(pth_dir=folder, save_dir=tmp_path / "out")
    assert refused(run, "pytorch_model.bin: cut short or damaged", "copy or download it again")


@pytest.mark.parametrize(
    "end",
    [
        b"PK\x05\x06" + bytes(18),  # no entries
        b"PK\x05\x06" + b"\xff" * 18,  # an offset and a size that lead nowhere
        b"PK\x05\x06" + bytes(4) + b"\x01\0\x01\0" + b"\xff\xff\xff\x7f" * 2 + bytes(2),
    ],
)
def test_a_broken_directory_is_one_sentence(tmp_path, export, end):
    folder = write_checkpoint(tmp_path / "c")
    path = folder / "pytorch_model.bin"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"PK\x01\x02")] + end)
    assert refused(export(pth_dir=folder, save_dir=tmp_path / "out"), "cut short or damaged")


ODD = {
    "sparse_coo": lambda: torch.ones(64, 64).to_sparse(),
    "sparse_csr": lambda: torch.ones(64, 64).to_sparse_csr(),
    "meta": lambda: torch.ones(64, 64).to("meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(64), torch.ones(3)]),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(64, 64), 0.1, 0, torch.qint8),
    "complex64": lambda: torch.ones(64, 64, dtype=torch.complex64),
    "int32": lambda: torch.ones(64, 64, dtype=torch.int32),
    "bool": lambda: torch.ones(64, 64, dtype=torch.bool),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_tensor_is_one_sentence(tmp_path, export, kind):
    folder = write_checkpoint(tmp_path / "c")
    try:
        odd = {"bert.pooler.dense.weight": ODD[kind]()}
        change_weights(folder, lambda state: state.update(odd))
    except RuntimeError:
        pytest.skip(f"torch {torch.__version__} cannot save a {kind} tensor")
    run = export(pth_dir=folder, save_dir=tmp_path / "out")
    # torch 2.0.1 loads no quantized one
    named = ("sparse_coo",) if sys.version_info < (3, 10) else ("sparse_coo", "quantized")
    said = f"is a {kind} tensor; save" if kind in named else ""
    assert refused(run, "pytorch_model.bin", said) and run.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Writing


def test_two_writers_leave_one_whole_file(tmp_path):
    """Neither writes into the other's."""
    path = tmp_path / NAME
    with files.replacing(path) as first:
        first.write_bytes(b"first" * 1000)
        with files.replacing(path) as second:
            assert first != second and first.exists()
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
        with open(first, "ab") as late:
            late.write(b"!")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first" * 1000 + b"!"
    assert os.listdir(tmp_path) == [NAME]


def test_a_temporary_that_is_another_writers_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    foreign = tmp_path / f".{NAME}.{'0' * 16}.tmp"
    foreign.write_bytes(b"another's")
    with pytest.raises(UserError, match="File exists"), files.replacing(tmp_path / NAME) as mine:
        mine.write_bytes(b"mine")
    assert foreign.read_bytes() == b"another's"


def test_eval_json_carries_the_digest_of_its_predictions(
    tmp_path, compiled, sentences, evaluate, monkeypatch
):
    """So that eval.json of one run beside predictions.tsv of another can be told."""

    def belong_together():
        known = json.loads((tmp_path / "eval.json").read_text())["predictions_sha256"]
        held = (tmp_path / "predictions.tsv").read_bytes()
        return known == hashlib.sha256(held).hexdigest()

    given = {"aie_model_dir": compiled, "output_dir": tmp_path}
    assert evaluate(data_dir=sentences, **given).code == 0 and belong_together()
    real, done = os.replace, []

    def killed_between(*paths):
        if done:
            raise KeyboardInterrupt
        done.append(real(*paths))

    (tmp_path / "more").mkdir()
    shutil.copy(sentences / "dev.tsv", tmp_path / "more")
    with open(tmp_path / "more" / "dev.tsv", "a") as dev:
        dev.write("another film\t1\n")
    monkeypatch.setattr(os, "replace", killed_between)
    assert evaluate(data_dir=tmp_path / "more", **given).code == 130 and not belong_together()
