"""Reading from addresses: files, http(s) and s3 through fsspec, with retries that go on at the byte that was reached.

Credentials are found as fsspec finds them: environment variables, ~/.aws, instance roles, FSSPEC_S3_ANON=true for
public buckets, FSSPEC_S3_ENDPOINT_URL for other object stores.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from lab.core.errors import DataError, MissingToolError
from lab.core.progress import warn

MAX_TRIES = 5
FIRST_WAIT_S = 0.5
BLOCK_BYTES = 4 << 20
"""Bytes of one range request; what is held of a remote file at a time."""
BUFFER_BYTES = 1 << 18
Result = TypeVar("Result")


def is_remote(address: str) -> bool:
    """True for URL-like addresses other than file://."""
    return "://" in address and not address.startswith(("file://", "local://"))


def local_path(address: str) -> Path:
    """The path of an address for which `is_remote` is False."""
    return Path(address.removeprefix("file://").removeprefix("local://"))


def open_address(address: str) -> BinaryIO:
    """A sequential reader of a file, http(s) or s3 address (or any other protocol of fsspec).

    Raises:
        DataError: missing, refused, or broken off again and again; names the address.
        MissingToolError: the package for the protocol is not installed.
    """
    if is_remote(address):
        return cast(BinaryIO, io.BufferedReader(_Remote(address), BUFFER_BYTES))
    try:
        return local_path(address).open("rb")
    except OSError as error:
        raise DataError(f"{address} cannot be opened", got=error.strerror or error) from error


def fetch(address: str) -> bytes:
    """All bytes at an address. Raises as `open_address` does."""
    if not is_remote(address):
        with open_address(address) as file:
            return file.read()
    filesystem, path = _filesystem(address)
    return retry(lambda: cast(bytes, filesystem.cat_file(path)), address)


def describe(address: str) -> str:
    """Address, size and version (ETag, checksum or time of change) as text: what a digest can be made from cheaply."""
    if not is_remote(address):
        try:
            state = local_path(address).stat()
        except OSError as error:
            raise DataError(f"{address} cannot be opened", got=error.strerror or error) from error
        return f"{address} {state.st_size} {state.st_mtime_ns}"
    filesystem, path = _filesystem(address)
    info = retry(lambda: dict(filesystem.info(path)), address)
    version = next((info[key] for key in ("ETag", "etag", "checksum", "mtime", "LastModified") if info.get(key)), "")
    return f"{address} {info.get('size')} {version}"


def exists(address: str) -> bool:
    """True when there is something at the address. Raises DataError when that cannot be found out."""
    if not is_remote(address):
        return local_path(address).exists()
    filesystem, path = _filesystem(address)
    return retry(lambda: bool(filesystem.exists(path)), address)


def retry(call: Callable[[], Result], address: str) -> Result:
    """The result of `call`, tried up to MAX_TRIES times with doubling pauses. Raises DataError."""
    for number in range(1, MAX_TRIES + 1):
        try:
            return call()
        except (FileNotFoundError, PermissionError) as error:  # trying again would not help
            raise DataError(f"{address} cannot be opened", got=f"{type(error).__name__}: {error}") from error
        except _transient() as error:
            if number == MAX_TRIES or _is_final(error):
                raise DataError(
                    f"{address} cannot be read",
                    got=f"{type(error).__name__}: {error} (tries: {number})",
                    hint="check address, network and credentials",
                ) from error
            wait_s = FIRST_WAIT_S * 2 ** (number - 1)
            warn(f"{address}: {type(error).__name__}: {error}; trying again in {wait_s:g} s")
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _is_final(error: BaseException) -> bool:
    """An answer such as 401 or 403, which asking again does not change (408 and 429 ask for that)."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429) and _is_response(error)


def _is_response(error: BaseException) -> bool:
    # aiohttp reports an incomplete body with status 400, too, as another class.
    return type(error).__name__ == "ClientResponseError"


def _transient() -> tuple[type[BaseException], ...]:
    """What a broken or busy connection raises, of the libraries that are installed."""
    found: list[type[BaseException]] = [OSError, EOFError, TimeoutError]
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")):
        try:
            found.append(getattr(__import__(module, fromlist=[name]), name))
        except ImportError:
            continue
    return tuple(found)


def _filesystem(address: str) -> tuple[Any, str]:
    """(fsspec file system, path in it)."""
    protocol = address.split("://", 1)[0]
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        extra = "s3" if protocol in ("s3", "s3a") else "train"
        raise MissingToolError(
            f"{protocol}:// addresses need another package", got=error, hint=f"pip install 'lab[{extra}]'"
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(f"{address} is no address", got=error) from error
    return filesystem, path


class _Remote(io.RawIOBase):
    """A remote file that is opened again, at the byte reached, when the connection breaks."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.position = 0
        self._file: Any = None
        self._has_ranges = True
        retry(self._open, address)  # a wrong address is an error here, not at the first read

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only from the start or the current place; costs a request."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("a remote file is not read from its end")
        self.position = offset + (self.position if whence == io.SEEK_CUR else 0)
        self._drop()
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        content = retry(lambda: self._read(len(buffer)), self.address)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def _read(self, size: int) -> bytes:
        if self._file is None:
            self._open()
        try:
            content = cast(bytes, self._file.read(size))
            end = getattr(self._file, "size", None)
            if not content and end is not None and self.position < end:
                raise EOFError(f"the connection ended at byte {self.position} of {end}")
            return content
        except ValueError:  # what fsspec raises when a server ignores the range that was asked for
            self._drop()
            if not self._has_ranges:
                raise
            self._has_ranges = False
            return self._read(size)
        except BaseException:
            self._drop()
            raise

    def _open(self) -> None:
        filesystem, path = _filesystem(self.address)
        options = {"block_size": BLOCK_BYTES, "cache_type": "readahead"} if self._has_ranges else {"block_size": 0}
        file = filesystem.open(path, "rb", **options)
        try:
            if self.position:
                self._advance(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _advance(self, file: Any) -> None:
        """To the byte that was reached: by seeking, or on servers without ranges by reading up to it."""
        try:
            file.seek(self.position)
            return
        except ValueError:  # a server without ranges
            left = self.position
        while left:
            content = file.read(min(left, BLOCK_BYTES))
            if not content:
                raise EOFError(f"the connection ended before byte {self.position}")
            left -= len(content)

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception as error:  # noqa: BLE001 - the error that broke the connection is the one that counts
                warn(f"{self.address}: closing a broken connection: {error}")

    def close(self) -> None:
        self._drop()
        super().close()
