"""Two queues of raw embeddings, sounds and pictures of the same clips, that serve as further negatives.

Raw means before f and g, which are applied to the whole queue at every step: two queues then do for four directions.

Shapes: B keys, K slots, A audio dimensions, V image dimensions.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .gather import gather

NO_ID = -1


class Queued(NamedTuple):
    """Copies of what stands in the queues."""

    audio_KA: Tensor
    image_KV: Tensor
    ids_K: Tensor
    """Positions of the clips in the catalog; -1: an empty slot."""
    filled_K: Tensor


class Queues(nn.Module):
    """First in, first out; part of the state dict, so that a resumed run goes on with them."""

    audio: Tensor
    image: Tensor
    ids: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, audio_dim: int, image_dim: int) -> None:
        """Make empty queues of `size` slots."""
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue of {size} slots holds nothing; want at least 1")
        self.size = size
        self.register_buffer("audio", torch.zeros(size, audio_dim))
        self.register_buffer("image", torch.zeros(size, image_dim))
        self.register_buffer("ids", torch.full((size,), NO_ID))
        self.register_buffer("pointer", torch.tensor(0))
        self.register_buffer("filled", torch.tensor(0))

    def read(self) -> Queued:
        """Return copies without gradient; what is enqueued later leaves them alone."""
        filled_K = torch.arange(self.size, device=self.filled.device) < self.filled
        audio_KA, image_KV, ids_K = (tensor.clone().detach() for tensor in (self.audio, self.image, self.ids))
        return Queued(audio_KA, image_KV, ids_K, filled_K)

    @torch.no_grad()
    def enqueue(self, audio_BA: Tensor, image_BV: Tensor, ids_B: Tensor) -> None:
        """Put the keys of all processes in the place of the oldest entries, wrapping around at the end.

        Raises:
            ValueError: the keys do not belong together, or are more than the queue has slots.
        """
        if not len(audio_BA) == len(image_BV) == len(ids_B):
            raise ValueError(
                f"{len(audio_BA)} sounds, {len(image_BV)} pictures and {len(ids_B)} ids; want equally many"
            )
        audio_BA, image_BV, ids_B = gather(audio_BA), gather(image_BV), gather(ids_B)
        if len(ids_B) > self.size:
            raise ValueError(
                f"{len(ids_B)} keys of one step do not fit a queue of {self.size}; "
                "take a larger queue, none, or a smaller batch"
            )
        slots_B = (self.pointer + torch.arange(len(ids_B), device=self.pointer.device)) % self.size
        self.audio[slots_B] = audio_BA.to(self.audio.dtype)
        self.image[slots_B] = image_BV.to(self.image.dtype)
        self.ids[slots_B] = ids_B.to(self.ids)
        self.pointer.copy_((self.pointer + len(ids_B)) % self.size)
        self.filled.copy_((self.filled + len(ids_B)).clamp(max=self.size))
