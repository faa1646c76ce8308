import signal

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test.
settings.register_profile("rlvid", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rlvid")


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
