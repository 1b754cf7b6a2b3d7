"""Rules for the whole suite."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.fixtures_clearml"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """In CI a skipped test hides a gap; only a missing GPU excuses one."""
    if not os.environ.get("CI"):
        return
    skipped = [
        report.nodeid
        for report in terminalreporter.stats.get("skipped", [])
        if "gpu" not in report.keywords
    ]
    if skipped:
        terminalreporter.write_line("skipped in CI, which counts as failed: " + ", ".join(skipped))


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    if any("gpu" not in report.keywords for report in reporter.stats.get("skipped", [])):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
