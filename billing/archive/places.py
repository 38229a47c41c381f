"""Where archives lie: a local folder, or a bucket of an S3-compatible store.

Decides: a file appears under its name whole or not at all, and only its user may read it.
Does not decide what is in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

import pyarrow.fs as arrow_fs  # pyright: ignore[reportMissingTypeStubs]  # it comes without types

from billing.errors import ConfigurationError, NotFound, SteelyardError

_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 3
_SCHEME = "s3://"


class ArchiveUnavailable(SteelyardError):
    """The place of archives cannot be read or written now."""

    code = "archive_unavailable"


class ArchivePlace(Protocol):
    """A place that keeps files by name."""

    def url(self, name: str) -> str:
        """The address of a file, as the manifest keeps it."""
        ...

    def put(self, source: Path, name: str) -> None:
        """Keep a copy of a local file, durably.

        Raises:
            ArchiveUnavailable: the place refuses.
        """
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file for reading; the caller closes it.

        Raises:
            NotFound: there is none of this name.
            ArchiveUnavailable: the place does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """How to reach an S3-compatible store; credentials come from the environment if unset."""

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


def archive_place(url: str, bucket: Bucket) -> ArchivePlace:
    """The place that a setting names: `s3://bucket/prefix`, or a folder.

    Raises:
        ConfigurationError: no bucket is named, or another scheme.
    """
    if url.startswith(_SCHEME):
        base = url.removeprefix(_SCHEME).strip("/")
        if not base:
            raise ConfigurationError(
                "no bucket is named",
                field="STEELYARD_ARCHIVE_URL",
                remedy="write it like s3://bucket/prefix",
            )
        return _S3(base=base, files=_s3(bucket))
    if "://" in url:
        raise ConfigurationError(
            "not a place that archives can lie in",
            field="STEELYARD_ARCHIVE_URL",
            remedy="name a folder, or s3://bucket/prefix",
        )
    return _Folder(folder=Path(url))


def sha256_of(file: IO[bytes]) -> bytes:
    """The checksum of a file from where it stands to its end."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    folder: Path

    def url(self, name: str) -> str:
        return str(self.folder.absolute().joinpath(name))

    def put(self, source: Path, name: str) -> None:
        draft = self.folder.joinpath(f"{name}.part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(source, draft)
            draft.chmod(0o600)
            _sync(draft)
            draft.replace(self.folder.joinpath(name))
            _sync(self.folder)
        except OSError as refused:
            raise _unavailable(refused) from None

    def open(self, name: str) -> IO[bytes]:
        try:
            return self.folder.joinpath(name).open("rb")
        except FileNotFoundError:
            raise _absent(self.url(name)) from None
        except OSError as refused:
            raise _unavailable(refused) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _S3:
    base: str
    files: Any = field(repr=False)  # pyarrow comes without types

    def url(self, name: str) -> str:
        return f"{_SCHEME}{self.base}/{name}"

    def put(self, source: Path, name: str) -> None:
        refused = OSError()
        for _ in range(_ATTEMPTS):
            try:
                self._upload(source, name)
            except OSError as error:
                refused = error
            # Whatever was answered: what was lost may be the answer and not the object, or an
            # upload may have ended without its object.
            if self._holds(source, name):
                return
        raise _unavailable(refused)

    def open(self, name: str) -> IO[bytes]:
        try:
            return cast("IO[bytes]", self.files.open_input_file(f"{self.base}/{name}"))
        except FileNotFoundError:
            raise _absent(self.url(name)) from None
        except OSError as refused:
            raise _unavailable(refused) from None

    def _upload(self, source: Path, name: str) -> None:
        # A store shows an object only once its upload is complete.
        with (
            source.open("rb") as file,
            self.files.open_output_stream(f"{self.base}/{name}") as target,
        ):
            while chunk := file.read(_CHUNK_BYTES):
                target.write(chunk)

    def _holds(self, source: Path, name: str) -> bool:
        try:
            with source.open("rb") as wanted, self.open(name) as stored:
                return sha256_of(wanted) == sha256_of(stored)
        except (OSError, NotFound, ArchiveUnavailable):
            return False


def _s3(bucket: Bucket) -> Any:
    endpoint = bucket.endpoint or ""
    scheme, separator, host = endpoint.partition("://")
    known: dict[str, Any] = {
        "access_key": bucket.access_key,
        "secret_key": bucket.secret_key,
        "region": bucket.region,
        "endpoint_override": (host if separator else endpoint) or None,
        "scheme": scheme if separator else None,
    }
    files = cast("Any", arrow_fs)
    return files.S3FileSystem(**{name: value for name, value in known.items() if value is not None})


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _absent(url: str) -> NotFound:
    return NotFound(
        f"there is no archive at {url}", remedy="restore the file from a copy of the archive"
    )


def _unavailable(refused: OSError) -> ArchiveUnavailable:
    # A store's message may repeat a key; the kind of it is enough.
    reason = refused.strerror if refused.errno else type(refused).__name__
    return ArchiveUnavailable(
        f"archives cannot be reached: {reason}",
        field="STEELYARD_ARCHIVE_URL",
        remedy="check the address, the credentials and the free space",
    )
