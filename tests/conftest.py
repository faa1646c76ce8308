import pytest


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` need one."""
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if "gpu" in item.keywords:
                    item.add_marker(pytest.mark.skip(reason="no GPU here"))

def pytest_configure():
    """A shell's background jobs ignore Ctrl-C, and so does all they start: tests that press it need the default back."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
