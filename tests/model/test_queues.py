"""The queues: what stands in them is always what a list of the last K keys would hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from unibrivl.model.queues import NO_ID, Queues


def keys(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return keys whose every number tells their id."""
    ids = torch.arange(first, first + count)
    return ids[:, None].float().repeat(1, 3), -ids[:, None].float().repeat(1, 2), ids


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 12), batches=st.lists(st.integers(0, 12), max_size=12))
def test_it_holds_the_last_keys_in_order(size: int, batches: list[int]) -> None:
    queues, put = Queues(size, 3, 2), 0
    slots = [NO_ID] * size
    for count in (min(count, size) for count in batches):
        queues.enqueue(*keys(put, count))
        for number in range(put, put + count):
            slots[number % size] = number
        put += count
        kept = queues.read()
        assert kept.ids_K.tolist() == slots
        assert kept.filled_K.tolist() == [slot != NO_ID for slot in slots]
        assert sorted(kept.ids_K[kept.filled_K].tolist()) == list(range(max(0, put - size), put))
        wanted = torch.tensor([max(0, slot) for slot in slots]).float()
        assert torch.equal(kept.audio_KA, wanted[:, None].expand(-1, 3))
        assert torch.equal(kept.image_KV, -wanted[:, None].expand(-1, 2))
        assert int(queues.pointer) == put % size and int(queues.filled) == min(put, size)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 9), parts=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_a_step_in_parts_is_one_step(size: int, parts: list[int]) -> None:
    """Micro-batches are joined before they are enqueued."""
    total = sum(parts)
    if total > size:
        return
    one, many = Queues(size, 3, 2), Queues(size, 3, 2)
    one.enqueue(*keys(0, total))
    start = 0
    for count in parts:
        many.enqueue(*keys(start, count))
        start += count
    assert all(torch.equal(tensor, many.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_wrapping_enqueue_is_brivls(folder) -> None:
    ref = load_file(folder("reference") / "moco_loss.safetensors")
    size, dim = ref["image_queue"].T.shape
    queues = Queues(size, dim, dim)
    queues.audio.copy_(ref["language_queue"].T)
    queues.image.copy_(ref["image_queue"].T)
    queues.pointer.copy_(ref["pointer_before"])
    queues.filled.fill_(size)
    queues.enqueue(ref["language_key"], ref["image_key"], torch.arange(8))
    assert torch.equal(queues.audio, ref["language_queue_after"].T)
    assert torch.equal(queues.image, ref["image_queue_after"].T)
    assert queues.pointer == ref["pointer_after"]
    assert queues.ids[[96, 99, 0, 3, 4, 95]].tolist() == [0, 3, 4, 7, NO_ID, NO_ID]


def test_what_was_read_stays_when_others_come() -> None:
    queues = Queues(4, 3, 2)
    queues.enqueue(*keys(0, 4))
    kept = queues.read()
    queues.enqueue(*keys(4, 3))
    assert kept.ids_K.tolist() == [0, 1, 2, 3] and kept.audio_KA[:, 0].tolist() == [0, 1, 2, 3]
    assert not kept.audio_KA.requires_grad


def test_keys_with_a_graph_leave_it_behind_and_become_float32() -> None:
    queues = Queues(4, 3, 2)
    audio, image, ids = keys(1, 2)
    queues.enqueue(audio.bfloat16().requires_grad_(), image.requires_grad_() * 2, ids.int())
    assert not queues.audio.requires_grad and not queues.image.requires_grad
    assert queues.audio.dtype == torch.float32 and queues.ids.dtype == torch.int64
    assert queues.audio[:2, 0].tolist() == [1, 2]


def test_more_keys_than_slots_are_refused_and_change_nothing() -> None:
    queues = Queues(4, 3, 2)
    with pytest.raises(ValueError, match=r"5 keys of one step do not fit a queue of 4; take a larger queue"):
        queues.enqueue(*keys(0, 5))
    assert queues.filled == 0 and not queues.audio.any()


def test_keys_that_do_not_belong_together_are_refused() -> None:
    audio, image, ids = keys(0, 3)
    with pytest.raises(ValueError, match="3 sounds, 2 pictures and 3 ids; want equally many"):
        Queues(4, 3, 2).enqueue(audio, image[:2], ids)
    with pytest.raises(ValueError, match="a queue of 0 slots"):
        Queues(0, 3, 2)


def test_everything_is_in_the_state_dict() -> None:
    queues, other = Queues(5, 3, 2), Queues(5, 3, 2)
    queues.enqueue(*keys(0, 4))
    queues.enqueue(*keys(4, 3))
    other.load_state_dict(queues.state_dict())
    queues.enqueue(*keys(7, 2))
    other.enqueue(*keys(7, 2))
    assert set(queues.state_dict()) == {"audio", "image", "ids", "pointer", "filled"}
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in queues.state_dict().items())
