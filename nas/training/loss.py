"""Losses of supernet training: cross-entropy for the largest subnet, in-place distillation for the others.

With a small GPT the vocabulary-sized tensors cost as much as the network, so both losses compute value and gradient together, in
chunks of rows that stay in cache: no probability tensor of the whole batch is ever written.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_ROWS = 256


def next_token_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token.

    Args:
        logits_BTV: of the model.
        targets_BT: ids of the tokens that follow.
    """
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten())  # type: ignore[no-untyped-call]
    return loss


def distillation_loss(logits_BTV: Tensor, teacher_BTV: Tensor) -> Tensor:
    """Mean cross-entropy to the teacher's distribution, in nats per token (in-place distillation, 1903.05134, sec. 3.2).

    Equal to the KL divergence up to the teacher's entropy, which has no gradient; the teacher gets
    none.

    Args:
        logits_BTV: of the student.
        teacher_BTV: logits of the teacher.
    """
    teacher = teacher_BTV.detach().flatten(0, 1)
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), teacher)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Mean over rows of ``logsumexp(l) - <p, l>``; gradient ``(softmax(l) - p) / N``.

    The target p is a one-hot row (ids ``[N]``) or the softmax of teacher logits ``[N, V]``.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target: Tensor) -> Tensor:
        num_rows = logits_NV.shape[0]
        gradient = torch.empty_like(logits_NV) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float64, device=logits_NV.device)
        for start in range(0, num_rows, _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            log_p = F.log_softmax(logits_NV[rows].float(), dim=-1)
            if target.ndim == 1:
                ids = target[rows, None]
                total -= log_p.gather(1, ids).sum()
            else:
                teacher = torch.softmax(target[rows].float(), dim=-1)
                total -= torch.dot(teacher.flatten(), log_p.flatten())
            if gradient is None:
                continue
            student = log_p.exp_()
            if target.ndim == 1:
                student.scatter_add_(1, ids, torch.full_like(student[:, :1], -1.0))
            else:
                student -= teacher
            gradient[rows] = student.div_(num_rows)
        ctx.save_for_backward(gradient)
        return (total / num_rows).float()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, None]:
        (gradient,) = ctx.saved_tensors
        # A plain loss.backward(): spare a pass over [N, V].
        if gradient is None or bool(grad_loss == 1.0):
            return gradient, None
        return gradient * grad_loss.to(gradient.dtype), None
