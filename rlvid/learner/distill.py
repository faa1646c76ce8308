"""What a better view or a teacher's patch taught, brought to the plain prompt: the policy under one context teaches the same policy under another.

For each of an answer's tokens, KL(p_t || p_s) over the whole vocabulary: p_t the policy under the context in which the answer was right, without gradient, p_s
under the prompt that users send [D]. The gradient in the student's logits is p_s - p_t: it does not vanish where the student is certain of a wrong answer, as
that of an advantage times log p does. Related: on-policy self-distillation with privileged context [R].
"""

from __future__ import annotations

from typing import Any

import torch

OPEN, CLOSE = "<answer>", "</answer>"


def answer_tokens(tokens_N: tuple[int, ...], tokenizer: Any) -> tuple[int, int]:
    """First and one past the last token between the tags of a reply; all of its tokens where it has no such tags.

    A token that holds a part of the answer belongs to it.
    """
    text = tokenizer.decode(tokens_N)
    start, end = text.rfind(OPEN), text.rfind(CLOSE)
    if start < 0 or end <= start + len(OPEN):
        return 0, len(tokens_N)
    first = _reaching(start + len(OPEN), tokens_N, tokenizer)
    return first, max(first + 1, _reaching(end, tokens_N, tokenizer))


def _reaching(place: int, tokens_N: tuple[int, ...], tokenizer: Any) -> int:
    """The first token whose text goes beyond this many characters: texts of longer beginnings are longer, so halving finds it."""
    low, high = 0, len(tokens_N) - 1
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(tokens_N[: middle + 1])) > place:
            high = middle
        else:
            low = middle + 1
    return low


class Divergence(torch.autograd.Function):
    """KL(teacher || student) [A] in nats of the distributions that a head makes of hidden states [A, H]; the student's alone has a gradient.

    Logits exist for a chunk of tokens at a time and are made anew in the backward pass, as the head's own log-probabilities are.
    """

    @staticmethod
    def forward(ctx: Any, student_AH: torch.Tensor, weight_VH: torch.Tensor, teacher_AH: torch.Tensor, head: Any) -> torch.Tensor:
        found = []
        for student_CH, teacher_CH in zip(student_AH.split(head.chunk), teacher_AH.split(head.chunk), strict=True):
            certain_CV, doubtful_CV = (torch.log_softmax(head.logits(hidden_CH, weight_VH), -1) for hidden_CH in (teacher_CH, student_CH))
            gap_CV = (certain_CV - doubtful_CV).masked_fill_(certain_CV == -torch.inf, 0.0)  # forbidden tokens have probability 0 in both
            found.append((certain_CV.exp_() * gap_CV).sum(-1))
        ctx.head = head
        ctx.save_for_backward(student_AH, weight_VH, teacher_AH)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, gradient_A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:  # type: ignore[override]
        student_AH, weight_VH, teacher_AH = ctx.saved_tensors
        head, hidden_gradient_AH = ctx.head, torch.empty_like(student_AH)
        weight_gradient_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        for start in range(0, len(student_AH), head.chunk):
            piece = slice(start, start + head.chunk)
            change_CV = torch.softmax(head.logits(student_AH[piece], weight_VH), -1)
            change_CV -= torch.softmax(head.logits(teacher_AH[piece], weight_VH), -1)
            change_CV = change_CV.mul_(gradient_A[piece, None]).div_(head.temperature).to(weight_VH.dtype)
            hidden_gradient_AH[piece] = change_CV @ weight_VH
            if weight_gradient_VH is not None:
                weight_gradient_VH.addmm_(change_CV.T, student_AH[piece])
        return hidden_gradient_AH, weight_gradient_VH, None, None
