"""Tar archives of images: what lies in one, found by its headers once, and its members at their offsets."""

from __future__ import annotations

import os
import tarfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DataError, ImageError
from .decode import Limits

_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_KINDS = ("", "a directory", "not a regular file", "a broken hard link")
_STEP = 1 << 20


@dataclass(frozen=True)
class Member:
    """A member as its header has it: where its bytes lie, or what it is instead of a file."""

    name: str
    offset: int
    size: int
    instead: str = ""


def tar_members(path: Path) -> Iterator[Member]:
    """Every member in the order of the archive, hard links as what they point to; only headers are read.

    Raises DataError that names the archive where it is compressed, truncated, damaged, or goes on behind its
    end mark (where archives were joined with cat): tar readers stop there without a word.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            seen: dict[str, Member] = {}
            linked = False
            while (member := archive.next()) is not None:
                if member.islnk():
                    if not linked:  # rare, so the names are kept only from the first link on
                        linked, seen = True, _files_before(path, member.offset)
                    target = seen.get(member.linkname, Member("", 0, 0, _KINDS[3]))
                    found = Member(member.name, target.offset, target.size, target.instead)
                elif member.isreg() and not member.issparse():
                    found = Member(member.name, member.offset_data, member.size)
                else:
                    found = Member(member.name, 0, 0, _KINDS[1 if member.isdir() else 2])
                if linked:
                    seen[member.name] = found
                yield found
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps them all
            _check_end(file, archive.offset, path)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(_not_a_tar(path, error)) from error
    except OSError as error:
        raise DataError(f"the archive {path} cannot be opened: {error.strerror or error}") from error


class MemberTable:
    """Name → where the member lies; 24 bytes a member, so that those of a million images can be kept.

    Names are told apart by 64 bits of blake2b. Of several members with one name the last counts, as in tar.
    """

    def __init__(self, path: Path) -> None:
        keys, offsets, sizes = [], [], []
        for member in tar_members(path):
            keys.append(_key(member.name))
            offsets.append(member.offset)
            sizes.append(-_KINDS.index(member.instead) if member.instead else member.size)
        unsorted = np.array(keys, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        self._keys = unsorted[order]
        self._offsets = np.array(offsets, dtype=np.int64)[order]
        self._sizes = np.array(sizes, dtype=np.int64)[order]

    def find(self, name: str) -> tuple[int, int]:
        """(offset, size) of a member; ImageError where there is none, or where it is no file."""
        key = _key(name)
        place = int(np.searchsorted(self._keys, key, side="right")) - 1
        if place < 0 or self._keys[place] != key:
            raise ImageError(f"the archive has no member {name!r}")
        size = int(self._sizes[place])
        if size < 0:
            raise ImageError(f"the member {name!r} is {_KINDS[-size]}")
        return int(self._offsets[place]), size


class OpenArchive:
    """An archive's descriptor; read with pread, so threads and forked workers share it."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"the archive {path} cannot be opened: {error.strerror}") from error
        # A reader in another thread may still hold an archive that the cache let go: the last one closes it.
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, size: int, limits: Limits) -> bytes:
        """`size` bytes from `offset` on; ImageError where the archive ends before, or where size is out of
        limits."""
        limits.check_bytes(size)
        parts: list[bytes] = []
        while size > 0:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                raise ImageError(f"the archive ends {size} bytes before the end of this member")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _files_before(path: Path, offset: int) -> dict[str, Member]:
    with tarfile.open(path, mode="r:") as archive:
        found = {}
        while (member := archive.next()) is not None and member.offset < offset:
            if member.isreg() and not member.issparse():
                found[member.name] = Member(member.name, member.offset_data, member.size)
            archive.members = []  # type: ignore[attr-defined]
        return found


def _check_end(file: BinaryIO, offset: int, path: Path) -> None:
    """DataError unless nothing but zeros, and at least one block of them, follows the last member."""
    file.seek(offset)
    rest = 0
    while part := file.read(_STEP):
        rest += len(part)
        if part.count(0) != len(part):
            raise DataError(
                f"{path} is damaged, or goes on behind its end mark, at byte {offset}: what follows cannot "
                "be read. Make it anew with `tar -cf`; archives are joined with `tar -Af`, not with cat"
            )
    if rest < tarfile.BLOCKSIZE:
        raise DataError(f"{path} is truncated: its end mark is missing after byte {offset}. Fetch it again")


def _not_a_tar(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        first = file.read(6)
    for magic, (name, unpack) in _PACKED.items():
        if first.startswith(magic):
            return (
                f"{path} is compressed with {name}, and one image of it cannot be read without the others: "
                f"type {unpack} {path} (or unpack it, or make it anew with `tar -cf`)"
            )
    return (
        f"{path} is not a whole, uncompressed tar archive ({error}): unpack it, or make it anew with "
        "`tar -cf`"
    )


def _key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
