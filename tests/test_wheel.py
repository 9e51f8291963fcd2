"""The packages for pip: built, checked, and installed in fresh environments (`tox -e wheel`)."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

from rumpx import __version__
from support.data import compare, fill_mixed
from support.run import ROOT
from support.servers import Server

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(300)]

StartServer = Callable[..., Server]
VERSIONS = ("3.11", "3.12", "3.13")

# What mypy accepts only where it finds the types of the package.
CONSUMER = """
import rumpx

def copied(source: str, target: str) -> int:
    return rumpx.copy(source, target).counts.copied
"""


def call(*words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end, which must be a success; returns all that it wrote."""
    left_out = ("PYTHONPATH", "PIP_REQUIRE_VIRTUALENV")
    usual = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        words,
        env=usual | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """The two packages."""

    wheel: Path
    sdist: Path

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as archive:
            return email.message_from_bytes(archive.read(f"{self._info}/METADATA"))

    def names(self) -> set[str]:
        """The wheel's files, those about it left out."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if not name.startswith(self._info)}

    def licence(self) -> str:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(f"{self._info}/licenses/LICENSE").decode()

    @property
    def _info(self) -> str:
        return f"rumpx-{__version__}.dist-info"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is made of the sdist, so that both are whole."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    """Every file of the repository, among them the type marker, guides, examples and schemas."""
    listed = call("git", "-C", ROOT, "ls-files", "rumpx")

    assert built.names() == set(listed.split())
    assert {"rumpx/py.typed", "rumpx/guides/resume.md"} <= built.names()
    assert built.licence() == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_metadata(built: Built) -> None:
    told = built.metadata()

    assert (told["Name"], told["Version"]) == ("rumpx", __version__)
    assert told["License-Expression"] == "MIT" and told["License-File"] == "LICENSE"
    assert told["Requires-Python"] == ">=3.11.1"
    assert {"metrics", "completion", "fast", "dask", "demo"} <= set(told.get_all("Provides-Extra"))
    bare = [each for each in told.get_all("Requires-Dist") if "extra ==" not in each]
    assert sorted(re.match(r"[\w-]+", each)[0] for each in bare) == ["hiredis", "psutil", "rich"]


def test_the_tools_that_check_packages_agree(built: Built) -> None:
    call(sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist)
    call(sys.executable, "-m", "check_wheel_contents", "--config", os.devnull, built.wheel)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fresh_environment(
    built: Built, version: str, server: StartServer, tmp_path: Path
) -> None:
    interpreter = shutil.which(f"python{version}")
    if interpreter is None:
        pytest.skip(f"Python {version} is not on PATH")
    call(interpreter, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    python, program = programs / "python", programs / "rumpx"
    call(programs / "pip", "install", "--quiet", built.wheel)
    call(programs / "pip", "check")
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 2000)
    page = tmp_path / "page.html"

    assert call(program, "--version") == f"rumpx {__version__}\n"
    assert "rumpx help resume" in call(program, "help")
    assert "ExecStart" in call(program, "example", "systemd")
    ends = ("--from", source.uri, "--to", target.uri)
    call(program, *ends, "--workers", "2", "--verify", "--job", "move")
    assert "move" in call(program, "jobs")
    call(program, "report", "move", "--html", page)

    assert compare(source, target) == []
    assert "<style>" in page.read_text(encoding="utf-8")
    where = call(python, "-c", "import rumpx; print(rumpx.__file__)")
    assert where.startswith(str(programs.parent))
    (tmp_path / "consumer.py").write_text(CONSUMER)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python)
    call(*mypy, "--cache-dir", tmp_path / "mypy", tmp_path / "consumer.py")
