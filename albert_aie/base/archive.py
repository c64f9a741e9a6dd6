"""torch's zip archives, read without torch: torch.load and torch.jit.load check neither CRC nor
digest, and take a changed number for a weight."""

import hashlib
import os
import struct
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

from .errors import first_line

_BLOCK = 1 << 20
_DIRECTORY = 0x10  # an attribute; torch's reader then leaves the entry's memory as it was
_LOCAL_HEADER = struct.Struct("<26x2H")  # lengths of name and extra field


class Damaged(Exception):
    """Why an archive cannot be used: half a sentence."""


class Archive:
    """An opened archive. `names` are its entries without the folder that torch puts them all in.
    Raises Damaged for what is no such zip."""

    def __init__(self, path):
        try:
            self._zip = zipfile.ZipFile(path)
        # BadZipFile mostly; a damaged directory also raises what its fields lead to
        except Exception as error:
            raise Damaged(f"not a whole zip archive ({first_line(error)})") from None
        entries = self._zip.infolist()
        # Python 3.12 and 3.13.0 mix up what threads read of one ZipFile at once (cpython #127847)
        self._one_reader = threading.Lock()
        self._entries = {entry.filename.partition("/")[2]: entry for entry in entries}
        self.root = entries[0].filename.partition("/")[0] if entries else ""
        one_folder = all(entry.filename.startswith(self.root + "/") for entry in entries)
        wrong = [
            f"{name} is marked as a directory"
            for name, entry in self._entries.items()
            if name.endswith("/") or entry.external_attr & _DIRECTORY
        ]
        if not entries or not one_folder or len(self._entries) < len(entries):
            wrong = ["its entries are not those of one torch archive"]
        if wrong:
            self._zip.close()
            raise Damaged(wrong[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._zip.close()

    @property
    def names(self):
        return list(self._entries)

    def read(self, name):
        """The content of an entry. Raises Damaged where its CRC differs."""
        try:
            return self._zip.read(self._entries[name])
        except Exception as error:
            raise _damaged(name, error) from None

    def check_crcs(self):
        """Raises Damaged if an entry differs from its CRC."""
        for name, entry in self._entries.items():
            try:
                with self._zip.open(entry) as file:
                    while file.read(_BLOCK):
                        pass
            except Exception as error:
                raise _damaged(name, error) from None

    def sha256(self, names, meanwhile=lambda: None):
        """{name: hex digest} of the content of entries; meanwhile() is called while other threads
        compute them. Raises Damaged where one cannot be read."""
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashlib lets the lock go
            digests = pool.map(self._sha256, names)
            meanwhile()
            return dict(zip(names, digests))

    def _sha256(self, name):
        entry = self._entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            with self._one_reader:
                return hashlib.sha256(self.read(name)).hexdigest()
        try:
            return self._sha256_of_stored(entry)
        except (OSError, OverflowError, struct.error) as error:  # an offset that leads nowhere
            raise _damaged(name, error) from None

    def _sha256_of_stored(self, entry):
        """Big entries are stored as they are: read without zipfile, which would compute the CRC
        besides."""
        file = self._zip.fp.fileno()
        header = os.pread(file, _LOCAL_HEADER.size, entry.header_offset)
        # its lengths say where the content begins, and not the directory's: torch goes by them too
        start = entry.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header))
        end = start + entry.file_size
        digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
        while start < end and (count := os.preadv(file, [block[: end - start]], start)):
            digest.update(block[:count])
            start += count
        return digest.hexdigest()


def append(path, name, content):
    """Add an entry to an archive that torch wrote; torch reads it like its own."""
    with Archive(path) as archive:
        root = archive.root
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), content)


def _damaged(name, error):
    return Damaged(f"{name} is damaged ({first_line(error)})")
