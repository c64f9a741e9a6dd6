"""The .pt: a TorchScript archive that torch.jit.load opens, plus extra files with all that is
needed to run it.

extra/albert_aie/manifest.json     backend, precision, shape, labels, origin, digests, versions
extra/albert_aie/tokenizer.model   the sentencepiece model, or tokenizer.json in its place
extra/albert_aie/<name>            a backend's own blobs (OpenVINO: ir.xml, ir.bin)
"""

import contextlib
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from .. import backends
from ..base.archive import Archive, Damaged
from ..base.errors import WHY, UserError, refusing, some
from ..base.files import check_readable, parse_json, replacing
from ..base.shapes import Shape
from ..base.terminal import torchscript_warnings_off
from ..data.tasks import TASKS
from ..text.tokenizer_file import KINDS, TokenizerFile
from .manifest import FORMAT, FORMAT_VERSION, digest, first_unknown_key

PREFIX = "albert_aie/"
EXTRA = f"extra/{PREFIX}"
MANIFEST = EXTRA + "manifest.json"
AGAIN = "export the file again"


def file_name(shape):
    """albert_seq128_bs32.pt; _packed.pt of rows that were compiled for several sentences."""
    packed = "_packed" if shape.slots else ""
    return f"albert_seq{shape.max_seq_length}_bs{shape.batch_size}{packed}.pt"


def save(path, compiled, manifest, tokenizer):
    """Write the .pt of a backends.Compiled, a manifest and a TokenizerFile, and what the backend
    wants beside it, each whole or not at all. Raises UserError if they cannot be written."""
    import torch

    blobs = {KINDS[tokenizer.kind].ENTRY: tokenizer.data, **compiled.blobs}
    extra = {PREFIX + name: blob for name, blob in blobs.items()}
    with contextlib.ExitStack() as all_or_none:
        beside = {
            all_or_none.enter_context(replacing(Path(path).with_suffix(suffix))): content
            for suffix, content in compiled.files.items()
        }
        temporary = all_or_none.enter_context(replacing(path))
        # by way of memory: on a full disk torch's own file writer ends the process
        buffer = io.BytesIO()
        with torchscript_warnings_off():
            torch.jit.save(compiled.program, buffer, _extra_files=extra)
        # not write_bytes, whose view of the buffer would outlive a failure and warn on Python 3.13
        with open(temporary, "wb") as file, buffer.getbuffer() as view:
            file.write(view)
        seal(temporary, manifest)
        for place, content in beside.items():
            place.write_bytes(content)


def seal(path, manifest):
    """Append the manifest to an archive that has none, with a digest of every other entry and one
    of its own; torch reads it like its own entries."""
    with Archive(path) as archive:
        manifest = {**manifest, "entries": archive.sha256(archive.names)}
    manifest["sha256"] = digest(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(zipfile.ZipInfo(f"{archive.root}/{MANIFEST}"), text.encode())


@dataclass(frozen=True)
class Artifact:
    """An opened .pt: its manifest and tokenizer; the rest is read when asked for."""

    path: Path
    manifest: dict
    tokenizer: TokenizerFile
    stamp: tuple  # of the file when it was verified
    siblings: tuple = ()  # Artifacts of the same model to be used beside it, with other shapes

    @property
    def files(self):
        """It and the files beside it."""
        return self, *self.siblings

    @property
    def digest(self):
        """sha256 that tells its files from any others: of one file its manifest's."""
        own = sorted(each.manifest["sha256"] for each in self.files)
        return own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest()

    @cached_property
    def own_shape(self):
        """The Shape that this file was exported for."""
        return Shape(*(self.manifest[name] for name in Shape._fields))

    @property
    def has_free_sizes(self):
        """Whether its program takes every shape within that (choose_shapes)."""
        return self.manifest.get("free_sizes", False)

    @cached_property
    def shapes(self):
        """Those of all files, the largest last."""
        shapes = (each.own_shape for each in self.files)
        return tuple(sorted(shapes, key=lambda shape: (shape[1], shape[0], shape[2])))

    @property
    def shape(self):
        """The largest."""
        return self.shapes[-1]

    @property
    def num_labels(self):
        return len(self.manifest["label_names"])

    @property
    def task(self):
        """The Task that it was exported for."""
        return TASKS[self.manifest["task"]]

    def classes(self, label_map=None):
        """The names of the program's classes; `label_map` {number: name} replaces some."""
        names = self.manifest["label_names"]
        return self.task.model_classes(names, len(names), label_map, str(self.path))

    @property
    def target(self):
        """What it was compiled for, without options."""
        names = ("backend", "device", "precision")
        return backends.Target(*(self.manifest[name] for name in names))

    def logits_shape(self, shape):
        """Of what the program answers to one batch of a Shape."""
        slots = (shape.slots,) if shape.slots else ()
        return (shape.batch_size, *slots, self.num_labels)

    def blob(self, name):
        with _archive(self.path) as archive:
            content = _read(archive, self.path, name)
        self._check_same()
        return content

    def program(self, device="cpu"):
        """The TorchScript program on `device`; manifest["requires"] must have been imported."""
        import torch

        # RuntimeError mostly, also others by version
        message = f"{self.path}: its program cannot be loaded ({WHY}); {AGAIN}"
        with refusing(message), torchscript_warnings_off():
            program = torch.jit.load(_openable(self.path), map_location=device)
        self._check_same()
        return program

    def _check_same(self):
        """What was verified must be what was read: another export may have replaced the file."""
        if _stamp(self.path) != self.stamp:
            raise UserError(f"{self.path}: was replaced while it was being read; run this again")


def open_pt(path):
    """Artifact of a .pt, every entry of it verified before any program is loaded. Raises UserError
    for a file that is missing, damaged, from another program or newer."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; write it with export_albert_aie.py and name it by "
            "--aie_model_dir"
        )
    check_readable(path)
    stamp = _stamp(path)
    with _archive(path) as archive:
        with refusing(f"{path}: its manifest is not JSON; {AGAIN}", ValueError):
            manifest = parse_json(_read(archive, path, "manifest.json"))
        _check_format(manifest, path)
        _verify(archive, manifest)
        message = f"{path}: its manifest is of another form than this program's; {AGAIN}"
        with refusing(message, AttributeError, KeyError, TypeError):
            if key := first_unknown_key(manifest):
                what = f"{path}: its manifest names a {key} that this program does not have"
                raise UserError(f"{what}; {AGAIN}")
        kind, options = (manifest["tokenizer"][name] for name in ("kind", "options"))
        data = _read(archive, path, KINDS[kind].ENTRY)
    tokenizer = TokenizerFile(kind, path, data, options)
    if tokenizer.sha256 != manifest["source"].get("tokenizer_sha256"):
        raise UserError(f"{path}: its tokenizer is not the one it was made with; {AGAIN}")
    return Artifact(path, manifest, tokenizer, stamp)


def open_all(paths):
    """Artifact of one or more files, or of all .pt files of a folder: that with the largest shape,
    and the others as its `siblings`. Raises UserError, as open_pt does, and where they are not of
    one model or two of them have a shape in common."""
    files = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.pt")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: holds no .pt file; export one with --save_dir {path}")
        files += inside
    if not files:
        raise UserError("no file was named; name a .pt that export_albert_aie.py wrote")
    opened = [open_pt(path) for path in files]
    if len(opened) > 1 and any(each.has_free_sizes for each in opened):
        raise UserError(
            f"--aie_model_dir {some(map(str, files))}: name one; it chooses its rows by itself"
        )
    path_of, wanted = {}, _identity(opened[0])
    for each in opened:
        shape, found = each.own_shape, _identity(each)
        for name, value in wanted.items():
            if found[name] != value:
                what = f"{files[0]}, {each.path}: not of one model, {name} {value} and"
                raise UserError(f"{what} {found[name]}; name files that were exported alike")
        if shape in path_of:
            what = f"{path_of[shape]}, {each.path}: both are for {shape}"
            raise UserError(f"{what}; leave one of them out")
        path_of[shape] = each.path
    largest = max(opened, key=lambda each: each.own_shape[1::-1])
    return replace(largest, siblings=tuple(each for each in opened if each is not largest))


def _identity(saved):
    """{name: value} of what files that are used together have in common."""
    m = saved.manifest
    return {
        "checkpoint": m["source"].get("sha256", "")[:12],
        "tokenizer": saved.tokenizer.sha256[:12],
        "task": saved.task.name,
        "classes": ", ".join(m["label_names"]),
        "backend": f"{m['backend']} on {m['device']}",
        "precision": m["precision"],
    }


def _check_format(manifest, path):
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{path}: its manifest is another program's; export the file with export_albert_aie.py"
        )
    version = manifest.get("format_version")
    # what was compiled for a card has not changed since
    oldest = FORMAT_VERSION - 1 if manifest.get("backend") == "aie" else FORMAT_VERSION
    if type(version) is not int or version not in range(oldest, FORMAT_VERSION + 1):
        raise UserError(
            f"{path}: format version {version}, this program reads {FORMAT_VERSION}; {AGAIN}, or "
            "use the version of this program that wrote it"
        )


def _verify(archive, manifest):
    wanted = manifest.get("entries")
    if digest(manifest) != manifest.get("sha256") or not isinstance(wanted, dict):
        raise Damaged(f"{MANIFEST} is not as it was written")
    names = [name for name in archive.names if name != MANIFEST]
    digests = archive.sha256(names, partial(backends.import_engine, manifest.get("backend")))
    wrong = [name for name in {**digests, **wanted} if digests.get(name) != wanted.get(name)]
    if wrong:
        raise Damaged(f"{some(wrong)} not as written")


@contextlib.contextmanager
def _archive(path):
    what = f"{path}: not a whole .pt file ({WHY})"
    cure = f"it was cut short or changed, or is no TorchScript archive: {AGAIN}"
    with refusing(f"{what}; {cure}", Damaged, OSError, reason=str), Archive(path) as archive:
        yield archive


def _read(archive, path, name):
    if EXTRA + name in archive.names:
        return archive.read(EXTRA + name)
    raise UserError(
        f"{path}: has no {PREFIX}{name} inside; it was not written by export_albert_aie.py"
    )


def _openable(path):
    """What torch.jit.load takes: the name, or the bytes where the name is not UTF-8."""
    with contextlib.suppress(UnicodeEncodeError):
        str(path).encode()
        return str(path)
    return io.BytesIO(path.read_bytes())


def _stamp(path):
    """Changes when the file is replaced or written to."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
