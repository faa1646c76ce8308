"""Log-probabilities of answer tokens, with memory that never grows with vocabulary x length."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rlvid.learner.attention import attention_arguments, set_attention
from rlvid.learner.packing import MicroBatch


class AnswerLogProbs(torch.nn.Module):
    """Wraps a Qwen-VL model: micro-batch in, log-probability of every answer token [A] float32 out.

    It is the module DeepSpeed drives, so that ZeRO-3's gathering hooks see one ordinary forward. Logits exist for
    `chunk` answer tokens at a time and are computed again in the backward pass. `forbidden` token ids have probability 0,
    as in the sampler; logits are divided by the sampling `temperature`, as in the sampler. `attention`: of the text model,
    sdpa or flex_attention; it is set here.
    """

    def __init__(self, model: Any, *, chunk: int, forbidden: tuple[int, ...], temperature: float, attention: str = "sdpa") -> None:
        super().__init__()
        set_attention(model, attention)
        self.model = model
        self.chunk = chunk
        self.temperature = temperature
        self.forbidden = list(forbidden)
        self.attention = attention

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        attention = attention_arguments(batch.lengths, self.attention, batch.targets_A.device, self.model.dtype)
        hidden_NH = self.model.model(**batch.model_inputs, **attention, use_cache=False).last_hidden_state[0]
        hidden_AH = hidden_NH[batch.predictors_A]
        pieces = zip(hidden_AH.split(self.chunk), batch.targets_A.split(self.chunk), strict=True)
        return torch.cat([checkpoint(self._chunk_logprobs, hidden, targets, use_reentrant=False) for hidden, targets in pieces])

    def _chunk_logprobs(self, hidden_CH: torch.Tensor, targets_C: torch.Tensor) -> torch.Tensor:
        logits_CV = self.model.lm_head(hidden_CH).float() / self.temperature
        logits_CV[:, self.forbidden] = float("-inf")
        return logits_CV.gather(-1, targets_C[:, None])[:, 0] - logits_CV.logsumexp(-1)
