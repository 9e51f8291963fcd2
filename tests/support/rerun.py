"""A test that fails is run once more, alone, at the end; failing twice fails the run.

A plugin, on where the variable `RUMPX_TEST_RERUN` is set, as tox does. Tests on real servers share
a machine; what fails only then is to be mended all the same, so every test that was run again is
listed in the last lines, with how that ended, and with the sums that count.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLE = "RUMPX_TEST_RERUN"
# More than these are no accident.
_MOST = 8


class Rerun:
    """Of the process that collects the reports."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self._passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = ""
        elif report.passed and report.when == "call":
            self._passed += 1

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus != pytest.ExitCode.TESTS_FAILED or not 0 < len(self.failed) <= _MOST:
            return
        for node in self.failed:
            self.failed[node] = "passed" if _passes_alone(session, node) else "failed again"
        if set(self.failed.values()) == {"passed"} and session.testsfailed == len(self.failed):
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for node, how in self.failed.items():
            terminalreporter.write_line(f"run once more, alone: {node}: {how or 'not run'}")

    def pytest_unconfigure(self) -> None:
        if self.failed:
            mended = list(self.failed.values()).count("passed")
            print(f"{self._passed + mended} passed, {len(self.failed) - mended} failed")


def _passes_alone(session: pytest.Session, node: str) -> bool:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-m", "pytest", "-n", "0", "--no-cov", "-p", "no:cacheprovider"]
    command += ["-m", session.config.option.markexpr, node]
    done = subprocess.run(command, env=environment, cwd=session.config.rootpath, check=False)
    return done.returncode == 0


def register(config: pytest.Config) -> None:
    """To be called by `pytest_configure`."""
    if os.environ.get(VARIABLE) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Rerun(), "rerun")
