"""A model in parts: each process keeps a share of every parameter, gradient and moment (torch's FSDP2).

Tensors are cut along their first axis. A unit comes together in every process while it computes, and falls apart again
behind that: each layer of the Transformers, the momentum tower but for its layers, and all that is left. Outside of
`forward` and of backward every parameter is this process's part.

So all processes must call the same units in the same order, and whatever reads a whole tensor needs all of them.
"""

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .unibrivl import UniBriVL

if TYPE_CHECKING:  # a second of imports, for those alone that shard
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(model: UniBriVL, device: torch.device) -> None:
    """Leave each process of the group its part of a model, on its device, unit by unit.

    Args:
        model: the same in every process, whole, on any device; its tower has `blocks`.
        device: where this process computes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.language.blocks():  # type: ignore[operator]
        _make_unit(block, mesh)
    if model.queues is not None:
        copied = model.key_language
        for module in (*copied.blocks(), copied):  # type: ignore[operator]
            _make_unit(module, mesh).set_unshard_in_backward(False)  # it has no gradients
        register_fsdp_forward_method(copied, "encode")
    _make_unit(model, mesh)
    register_fsdp_forward_method(model, "embed_audio")


def _make_unit(module: nn.Module, mesh: "DeviceMesh") -> "FSDPModule":
    from torch.distributed.fsdp import fully_shard

    # also of the last unit, which torch would leave whole behind a validation: what follows would change the wrong copy
    return fully_shard(module, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, of which every process may have a part; then every process must ask for it."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def read_part(file: Any, name: str, place: Tensor | None) -> Tensor:
    """Return a stored tensor as it goes into its place: where that is a part, no more than the part is read.

    Args:
        file: an open one of safetensors.
        name: of the tensor there.
        place: what it is for; None, or one of another shape: the whole tensor is returned, for a check to name it.
    """
    stored = file.get_slice(name)
    if not _is_part(place) or tuple(stored.get_shape()) != tuple(place.shape):
        return file.get_tensor(name)
    mesh, rows = place.device_mesh, place.shape[0]
    share = -(-rows // mesh.size())
    first = min(mesh.get_local_rank() * share, rows)
    own = stored[first : min(first + share, rows)] if first < rows else torch.empty(0, *place.shape[1:])
    return type(place).from_local(
        own.to(place.device, place.dtype), mesh, place.placements, run_check=False, shape=place.shape,
        stride=place.stride(),
    )  # fmt: skip


def _is_part(tensor: Tensor | None) -> TypeGuard["DTensor"]:
    return hasattr(tensor, "full_tensor")
