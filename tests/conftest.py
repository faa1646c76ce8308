import os
import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test.
settings.register_profile("rlvid", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rlvid")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def server():
    """A scripted endpoint for one test."""
    from tests.unit.endpoint import serve

    with serve() as script:
        yield script


def pytest_configure():
    """A shell's background jobs ignore Ctrl-C, and so does all they start: tests that press it need the default back."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` need one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no GPU here"))


def pytest_runtest_setup(item):
    """Tests marked `browser` need one."""
    if item.get_closest_marker("browser") and not any(map(shutil.which, BROWSERS)):
        missing = "no Chromium here: install chromium (on Debian: apt-get install chromium) to look at the report in a browser"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)


def pytest_terminal_summary(terminalreporter):
    """What was not tested, and why."""
    why = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        why.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if why:
        terminalreporter.section("not tested here")
    for reason, names in sorted(why.items()):
        terminalreporter.line(f"{len(names)} skipped: {reason}")
        for name in names:
            terminalreporter.line(f"    {name}")
