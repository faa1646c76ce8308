"""Entry point `vllm.general_plugins`: what every vLLM process of a run must know."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

from rlvid.process.traces import use_names

KEEP_WEIGHTS = "RLVID_KEEP_WEIGHTS_VISIBLE"
"""Environment variable that a rollout actor on CPU sets for its engine."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the thread that made this process ends."""


def register() -> None:
    """Teach vLLM the gloo twin of its nccl weight transfer, and what a family has to say. Called in the front-end and in every engine process, safe to
    call twice."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from rlvid.families import FAMILIES

    _die_with_parent()
    use_names()
    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("gloo", "rlvid.sync.engine_side", "GlooWeightTransferEngine")
    for family in FAMILIES.values():
        family.teach_transformers()
        family.teach_vllm()
    if os.environ.get(KEEP_WEIGHTS):
        _keep_weights_visible()


def _keep_weights_visible() -> None:
    """On CPU vLLM hands linear weights to oneDNN and forgets them: new ones would have to be repacked, and nobody could check what an engine has loaded.

    Without oneDNN it falls back to torch's linear, which reads the parameters themselves.
    """
    from vllm import _custom_ops

    _custom_ops._supports_onednn = False


def _die_with_parent() -> None:
    """An engine's process must not outlive a rollout actor that was killed: it would keep its memory and its GPU for ever."""
    if multiprocessing.parent_process() is None:
        return  # the actor itself, which Ray looks after
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # it died before this line
