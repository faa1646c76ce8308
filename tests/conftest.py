import pytest


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` need one."""
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if "gpu" in item.keywords:
                    item.add_marker(pytest.mark.skip(reason="no GPU here"))
