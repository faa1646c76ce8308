"""Let torchvision's CUDA build import beside a CPU build of torch.

`pip install torchvision` may pick a wheel that was built against CUDA torch. Beside a CPU torch it dies at import with
`operator torchvision::nms does not exist`, because its Python files register fake kernels for operators that its own
shared library could not define. Declaring the two operators' schemas before torchvision is imported is enough: rlvid
uses torchvision's transforms, never its detection operators.

The cure must act in *every* process (vLLM inspects models in a bare subprocess), so `python -m rlvid.torchvision_guard`
copies this file into site-packages beside a one-line `.pth` that activates it at interpreter start. It costs nothing
until torchvision is imported, and does nothing at all where torch has CUDA or torchvision is a CPU build.
"""

import sys

_NAME = "_rlvid_torchvision_guard"
_SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor", "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_libraries = []  # a torch.library.Library forgets its schemas when it is collected


class _Guard:
    """A meta-path hook that acts once, on the first import of torchvision, and finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _declare_missing_operators():
    import importlib.metadata

    import torch

    cpu_torch = torch.version.cuda is None and getattr(torch.version, "hip", None) is None
    if cpu_torch and "+cpu" not in importlib.metadata.version("torchvision"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)


def activate():
    """Arm the hook in this process. Called by the `.pth` file."""
    if "torchvision" not in sys.modules and not any(type(hook).__name__ == "_Guard" for hook in sys.meta_path):
        sys.meta_path.insert(0, _Guard())


def install():
    """Copy the guard into this environment's site-packages, so that every process of the environment has it."""
    import pathlib
    import shutil
    import sysconfig

    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    shutil.copyfile(__file__, site / f"{_NAME}.py")
    (site / f"{_NAME}.pth").write_text(f"import {_NAME}; {_NAME}.activate()\n")


if __name__ == "__main__":
    install()
