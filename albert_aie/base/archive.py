"""torch's zip archives, read without torch: torch.load and torch.jit.load check neither CRC nor
digest, and take a changed number for a weight."""

import hashlib
import os
import struct
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

from .errors import first_line

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
        # Python 3.12 and 3.13.0 mix up what threads read of one ZipFile at once (cpython #127847)
        self._one_reader = threading.Lock()
        entries = self._zip.infolist()
        parts = [entry.filename.partition("/") for entry in entries]
        self._entries = {part[2]: entry for part, entry in zip(parts, entries)}
        self.names = list(self._entries)
        self.root = parts[0][0] if parts else ""
        if {part[:2] for part in parts} != {(self.root, "/")} or len(self._entries) < len(entries):
            raise Damaged("its entries are not those of one torch archive")
        for name, entry in self._entries.items():
            if name.endswith("/") or entry.external_attr & _DIRECTORY:
                raise Damaged(f"{name} is marked as a directory")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._zip.close()

    def read(self, name):
        """The content of an entry. Raises Damaged where its CRC differs."""
        try:
            return self._zip.read(self._entries[name])
        except Exception as error:
            raise _damaged(name, error) from None

    def check_crcs(self):
        """Raises Damaged if an entry differs from its CRC."""
        for name in self.names:
            self.read(name)

    def sha256(self, names, meanwhile=lambda: None):
        """{name: hex digest} of the content of entries; meanwhile() is called while other threads
        compute them. Raises Damaged where one cannot be read."""
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashlib lets the lock go
            digests = pool.map(self._sha256, names)
            meanwhile()
            return dict(zip(names, digests))

    def _sha256(self, name):
        entry = self._entries[name]
        try:
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size:
                return self._sha256_of_stored(entry)
            with self._one_reader:
                return hashlib.sha256(self.read(name)).hexdigest()
        except (OSError, OverflowError, struct.error) as error:  # an offset that leads nowhere
            raise _damaged(name, error) from None

    def _sha256_of_stored(self, entry):
        """Without zipfile, which would compute the CRC besides: big entries are stored as are."""
        file = self._zip.fp.fileno()
        header = os.pread(file, _LOCAL_HEADER.size, entry.header_offset)
        # its lengths say where the content begins, and not the directory's: torch goes by them too
        start = entry.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header))
        end = start + entry.file_size
        digest, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
        while start < end and (count := os.preadv(file, [block[: end - start]], start)):
            digest.update(block[:count])
            start += count
        return digest.hexdigest()


def _damaged(name, error):
    return Damaged(f"{name} is damaged ({first_line(error)})")
