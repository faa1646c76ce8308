"""Entry point `vllm.general_plugins`: what every vLLM process of a run must know."""

from __future__ import annotations

import os

KEEP_WEIGHTS = "RLVID_KEEP_WEIGHTS_VISIBLE"
"""Environment variable that a rollout actor on CPU sets for its engine."""


def register() -> None:
    """Teach vLLM the gloo twin of its nccl weight transfer. Called in the front-end and in every engine process, safe to call twice."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("gloo", "rlvid.sync.engine_side", "GlooWeightTransferEngine")
    if os.environ.get(KEEP_WEIGHTS):
        _keep_weights_visible()


def _keep_weights_visible() -> None:
    """On CPU vLLM hands linear weights to oneDNN and forgets them; then nobody could check what an engine has loaded.

    Without oneDNN it falls back to torch's linear, which reads the parameters themselves.
    """
    from vllm import _custom_ops

    _custom_ops._supports_onednn = False
