"""Log-probabilities of answer tokens, with memory that never grows with vocabulary x length."""

from __future__ import annotations

from typing import Any

import torch

from rlvid.families import named
from rlvid.learner.attention import attention_arguments, set_attention
from rlvid.learner.distill import Divergence
from rlvid.learner.divided import Peers, agreed, answers_known
from rlvid.learner.experts import Routing
from rlvid.learner.packing import MicroBatch


class AnswerLogProbs(torch.nn.Module):
    """Wraps a vision-language model: micro-batch in, log-probability of every answer token [A] float32 out; with `entropy`, (those, entropies [A]).

    It is the module DeepSpeed drives, so that ZeRO-3's gathering hooks see one ordinary forward. The model's head becomes a LogProbHead.
    `forbidden` token ids have probability 0, as in the sampler; logits are divided by the sampling `temperature`, as in the sampler.
    `attention`: of the text model, sdpa or flex_attention; it is set here. `entropy`: of each answer token's distribution, with its gradient.
    `experts`: of a model that has them, whether the engine's choices are measured or replayed (rlvid/learner/experts.py).
    `peers`: the ranks that share every row, each of which is given its share (learner/divided.py) and gives the log-probabilities of the whole.
    """

    def __init__(
        self,
        model: Any,
        *,
        chunk: int,
        forbidden: tuple[int, ...],
        temperature: float,
        attention: str = "sdpa",
        entropy: bool = False,
        experts: str = "off",
        peers: Peers | None = None,
    ) -> None:
        super().__init__()
        set_attention(model, attention)
        ask_last_mlp_for_answers_only(model)
        self.family = named(model.config.model_type)
        self.family.prepare(model)
        routers = self.family.routers(model) if experts != "off" else []
        self.routing = Routing(routers, replay=experts == "replay") if routers else None
        model.lm_head = LogProbHead(model.lm_head.weight, chunk=chunk, forbidden=forbidden, temperature=temperature, entropy=entropy)
        self.model = model
        self.attention = attention
        self.peers = peers

    def forward(
        self, batch: MicroBatch, *, hidden_only: bool = False, teacher_AH: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """`hidden_only`: [A, H], what the head is given. `teacher_AH`: such of another prompt; then [A], how far the distributions of this one are from it."""
        if self.routing is not None:
            self.routing.tell(batch)
        hidden_AH = self._hidden(batch, self._arguments(batch)) if self.peers is None else self._hidden_divided(batch, self.peers)
        if hidden_only:
            return hidden_AH
        if self.peers is None:
            return self._said(hidden_AH, batch.targets_A, teacher_AH)
        peers, answers = self.peers, len(batch.targets_A)
        own = peers.share(answers)
        said = self._said(hidden_AH[own], batch.targets_A[own], None if teacher_AH is None else teacher_AH[own])
        return (agreed(said[0], answers, peers), agreed(said[1], answers, peers)) if isinstance(said, tuple) else agreed(said, answers, peers)

    def _said(self, hidden_AH: torch.Tensor, targets_A: torch.Tensor, teacher_AH: torch.Tensor | None) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        said: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = self.model.lm_head(hidden_AH, targets_A, teacher_AH)
        return said

    def _arguments(self, batch: MicroBatch) -> dict[str, Any]:
        """What all layers are called with."""
        device = batch.targets_A.device
        attention = attention_arguments(batch.lengths, self.attention, device, self.model.dtype, self.peers)
        return self.family.row_arguments(attention, batch.lengths, device)

    def _hidden(self, batch: MicroBatch, arguments: dict[str, Any]) -> torch.Tensor:
        """[A, H], what the head is given."""
        hidden_NH = self.model.model(**batch.model_inputs, **arguments, predictors=batch.asked(), use_cache=False).last_hidden_state[0]
        hidden_AH: torch.Tensor = hidden_NH[batch.predictors_A]
        return hidden_AH

    def _hidden_divided(self, batch: MicroBatch, peers: Peers) -> torch.Tensor:
        """The same of a row that several ranks share, on all of them."""
        share = batch.share
        assert share is not None, "a row that is not divided"
        inputs = dict(batch.model_inputs)
        seen = self.model.model.get_video_features(inputs.pop("pixel_values_videos"), inputs.pop("video_grid_thw"), return_dict=True)
        seen.pooler_output = (torch.cat(seen.pooler_output)[share.keep_V],)
        if hasattr(seen, "deepstack_features"):
            seen.deepstack_features = [(torch.cat(features)[share.keep_V],) for features in seen.deepstack_features]
        options = {"mm_encoder_outputs": {"video": seen}, "predictors": batch.asked(), "use_cache": False}
        hidden_NH = self.model.model(**inputs, **self._arguments(batch), **options).last_hidden_state[0]
        return answers_known(hidden_NH, share, len(batch.targets_A), peers)


def ask_last_mlp_for_answers_only(model: Any) -> None:
    """Behind the last layer only the tokens that predict answers are looked at: its MLP, which sees each token by itself, is given those alone.

    They come as `predictors` (each once), which the model hands through to its layers; without them all tokens are computed.
    """
    layer = model.model.language_model.layers[-1]
    if not hasattr(layer.mlp, "asked_A"):
        layer.mlp.asked_A = None
        layer.register_forward_pre_hook(_note_predictors, with_kwargs=True)
        layer.mlp.register_forward_pre_hook(_take_asked)
        layer.mlp.register_forward_hook(_spread_asked)


def _note_predictors(layer: Any, _args: Any, kwargs: dict[str, Any]) -> None:
    layer.mlp.asked_A = kwargs.get("predictors")


def _take_asked(mlp: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    (hidden_1NH,) = args
    mlp.tokens = hidden_1NH.shape[1]
    return (hidden_1NH if mlp.asked_A is None else hidden_1NH.index_select(1, mlp.asked_A),)


def _spread_asked(mlp: Any, _args: Any, output_1AH: torch.Tensor) -> torch.Tensor:
    """The others get nothing added."""
    if mlp.asked_A is None:
        return output_1AH
    return output_1AH.new_zeros(1, mlp.tokens, output_1AH.shape[2]).index_copy(1, mlp.asked_A, output_1AH)


class LogProbHead(torch.nn.Module):
    """A head that gives log-probabilities of known tokens in place of logits, which exist for `chunk` tokens at a time."""

    def __init__(self, weight_VH: torch.nn.Parameter, *, chunk: int, forbidden: tuple[int, ...], temperature: float, entropy: bool = False) -> None:
        super().__init__()
        self.weight = weight_VH
        self.chunk = chunk
        self.forbidden = list(forbidden)
        self.temperature = temperature
        self.entropy = entropy

    def forward(
        self, hidden_AH: torch.Tensor, targets_A: torch.Tensor, teacher_AH: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if teacher_AH is not None:
            apart_A: torch.Tensor = Divergence.apply(hidden_AH, self.weight, teacher_AH, self)
            return apart_A
        logprobs_A, entropy_A = _TokenLogProbs.apply(hidden_AH, self.weight, targets_A, self)
        return (logprobs_A, entropy_A) if self.entropy else logprobs_A

    def logits(self, hidden_CH: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
        """[C, V] float32."""
        logits_CV = torch.nn.functional.linear(hidden_CH, weight_VH).float().div_(self.temperature)
        logits_CV[:, self.forbidden] = float("-inf")
        return logits_CV


class _TokenLogProbs(torch.autograd.Function):
    """Logits are made anew in the backward pass and become their own gradient in place: one product more, but no second [C, V] tensor beside them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_AH: torch.Tensor, weight_VH: torch.Tensor, targets_A: torch.Tensor, head: LogProbHead
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        said, totals, spread = [], [], []
        for hidden_CH, targets_C in zip(hidden_AH.split(head.chunk), targets_A.split(head.chunk), strict=True):
            logits_CV = head.logits(hidden_CH, weight_VH)
            said.append(logits_CV.gather(-1, targets_C[:, None])[:, 0])
            most_C1 = logits_CV.amax(-1, keepdim=True)
            sums_C1 = logits_CV.sub_(most_C1).exp_().sum(-1, keepdim=True)
            totals.append((sums_C1.log() + most_C1)[:, 0])
            if head.entropy:
                spread.append(torch.special.entr(logits_CV.div_(sums_C1)).sum(-1))
        total_A, entropy_A = torch.cat(totals), torch.cat(spread) if head.entropy else None
        ctx.head = head
        ctx.save_for_backward(hidden_AH, weight_VH, targets_A, total_A, entropy_A)
        return torch.cat(said) - total_A, entropy_A

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient_A: torch.Tensor, spread_A: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        hidden_AH, weight_VH, targets_A, total_A, entropy_A = ctx.saved_tensors
        head, hidden_gradient_AH = ctx.head, torch.empty_like(hidden_AH)
        weight_gradient_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_AH), head.chunk):
            piece = slice(start, start + head.chunk)
            chances_CV = head.logits(hidden_AH[piece], weight_VH).sub_(total_A[piece, None]).exp_()
            more_CV = None
            if entropy_A is not None and spread_A is not None:  # of the entropy H in a logit: -p (log p + H)
                more_CV = torch.special.entr(chances_CV).sub_(chances_CV * entropy_A[piece, None]).mul_(spread_A[piece, None])
            change_CV = chances_CV.neg_()
            change_CV[torch.arange(len(change_CV), device=change_CV.device), targets_A[piece]] += 1
            change_CV.mul_(gradient_A[piece, None])
            if more_CV is not None:
                change_CV += more_CV
            change_CV = change_CV.div_(head.temperature).to(weight_VH.dtype)
            hidden_gradient_AH[piece] = change_CV @ weight_VH
            if weight_gradient_VH is not None:
                weight_gradient_VH.addmm_(change_CV.T, hidden_AH[piece])
        return hidden_gradient_AH, weight_gradient_VH, None, None
