"""Rows of all processes in every process, in the order of ranks; without a process group, what came.

Every process must bring equally many rows.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's number; 0 without a process group."""
    return dist.get_rank() if _is_shared() else 0


def gather(rows_BD: Tensor) -> Tensor:
    """Return the rows of all processes (N, D); gradients come back to the process whose rows they are.

    With a loss averaged over B rows in each process, and gradients averaged over processes, training is that of one
    process with N rows.
    """
    return _Gather.apply(rows_BD) if _is_shared() else rows_BD


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """`all_gather` whose backward sums, over processes, the gradients for this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        ctx.num_rows = len(rows_BD)
        parts = [torch.empty_like(rows_BD, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_ND = grads[0].contiguous().clone()
        dist.all_reduce(grad_ND)
        return grad_ND[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]
