"""Entry point `vllm.general_plugins`: what every vLLM process of a run must know."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from typing import Any

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
    _without_reload_notices()
    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("gloo", "rlvid.sync.engine_side", "GlooWeightTransferEngine")
    for family in FAMILIES.values():
        family.teach_transformers()
        family.teach_vllm()
    if os.environ.get(KEEP_WEIGHTS):
        _keep_weights_visible()


class _WithoutReloadNotices(logging.Filter):
    """vLLM's layer-wise reload warns, at every push, of each layer that a push brings nothing for: a head tied to the embeddings, tables of positions. They
    keep what they hold, as they should; whether an engine has all that was sent is seen by its checksum (sync.verify)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "%s: Failed to load weights"


def _without_reload_notices() -> None:
    notices = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    if not any(isinstance(one, _WithoutReloadNotices) for one in notices.filters):
        notices.addFilter(_WithoutReloadNotices())


def _keep_weights_visible() -> None:
    """On CPU vLLM hands linear weights to oneDNN, or packs them for matrix tiles (bfloat16 on processors that have them), and forgets them; experts it packs
    in place, and at a reload forgets to. New ones would have to be packed again, and nobody could check what an engine has loaded.

    Without these it falls back to torch's linear, which reads the parameters themselves; for experts there is no such way in vLLM, so here is one.
    """
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    _custom_ops._supports_onednn = False
    utils.check_cpu_sgl_kernel = lambda *_: False
    experts: Any = CPUUnquantizedExperts
    experts.process_weights_after_loading = lambda *_: None
    experts.apply = _apply_experts


def _apply_experts(
    _self: Any, output: Any, hidden_states: Any, w1: Any, w2: Any, topk_weights: Any, topk_ids: Any, activation: Any, *_: Any, **__: Any
) -> None:
    """vLLM's interface: [N, H] through the experts of each token, gate and up side by side in `w1` [E, 2 I, H], `w2` [E, H, I]; summed into `output`."""
    import torch
    from torch.nn.functional import linear, silu

    assert activation.value == "silu", activation
    output.zero_()
    for expert in topk_ids.unique().tolist():
        tokens, place = torch.where(topk_ids == expert)
        gate, up = linear(hidden_states[tokens], w1[expert]).chunk(2, dim=-1)
        seen = linear(silu(gate) * up, w2[expert]) * topk_weights[tokens, place, None]
        output.index_add_(0, tokens, seen.to(output.dtype))


def _die_with_parent() -> None:
    """An engine's process must not outlive a rollout actor that was killed: it would keep its memory and its GPU for ever."""
    if multiprocessing.parent_process() is None:
        return  # the actor itself, which Ray looks after
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # it died before this line
