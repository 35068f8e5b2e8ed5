"""DESED's tables and windows: the official layout, every kind of damage in one line, nothing opened outside."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from unibrivl.bench.desed import CLASSES, PARTS, SUBSETS, Event, Listing, read_part
from unibrivl.bench.desed_windows import EventWindows, cut
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.windows import LONGEST_S, Windows, length_of

from .desed_folder import CLIP_S, FILES, SAMPLE_RATE, events_of, write_part

HEAD = "filename\tonset\toffset\tevent_label\n"


def write_table(folder: Path, text: str | bytes, part: str = "real-val") -> Path:
    table = folder / PARTS[part].table
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def listing_of(*events: Event, part: str = "real-val") -> Listing:
    return Listing(part, ("a.wav",), (events,), Path("nowhere"), 1)


@pytest.mark.parametrize("part", list(FILES))
def test_every_part_is_read_in_its_layout(part: str, tmp_path: Path) -> None:
    write_part(tmp_path, part)
    found = read_part(tmp_path, part)
    assert len(found.names) == FILES[part] == len(found.there().names) == found.listed
    true = {CLASSES.index(label) for _, _, label in events_of(part, 0)}
    assert {event.label for event in found.events[0]} == true == set(np.flatnonzero(found.labels()[0]))
    assert found.is_weak == (part == "weak")
    if part != "weak":
        assert found.events[-1] == ()  # a row of empty fields
        assert sum(map(len, found.events)) == 3 * (FILES[part] - 1)


def test_the_copies_at_16_khz_and_both_places_of_real_sounds_are_found(tmp_path: Path) -> None:
    write_table(tmp_path, f"{HEAD}a.wav\t0\t1\tDog\n")
    for place in ("audio/validation", "audio/validation/validation_16k", "audio/validation/validation"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "a.wav").touch()
        assert read_part(tmp_path, "real-val").there().paths == (tmp_path / place / "a.wav",)


def test_the_sets_are_as_large_as_published() -> None:
    assert [PARTS[name].official for name in SUBSETS] == [2500, 1168, 692]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are none, want filename, onset, offset, event_label by tabs"),
        (HEAD, "lists no file"),
        ("filename,onset,offset,event_label\na.wav,0,1,Dog\n", "columns are .* by tabs"),
        (f"{HEAD}a.wav\t0\t1\n", ":2: 4 fields are wanted by tabs"),
        (f"{HEAD}a.wav\t0\t1\tDog\tmore\n", ":2: 4 fields are wanted by tabs"),
        (f"{HEAD}a.wav\t0\t1\tDog\nb.wav\t0\t1\tWolf\n", ":3: class 'Wolf' is none of DESED's ten"),
        (f"{HEAD}a.wav\t0\t\tDog\n", ":2: onset '0' and offset '', want seconds, or three empty fields"),
        (f"{HEAD}a.wav\t\t\tDog\n", "or three empty fields"),
        (f"{HEAD}a.wav\t0\tx\tDog\n", "offset 'x'"),
        (f"{HEAD}a.wav\t2\t1\tDog\n", "from 2 to 1 s, want an end after the beginning"),
        (f"{HEAD}a.wav\t1\t1\tDog\n", "from 1 to 1 s"),
        (f"{HEAD}a.wav\t-1\t1\tDog\n", "from -1 to 1 s"),
        (f"{HEAD}a.wav\tnan\t1\tDog\n", "from nan to 1 s"),
        (f"{HEAD}a.wav\t0\tinf\tDog\n", "from 0 to inf s"),
        (HEAD.encode() + b"a\xff.wav\t0\t1\tDog\n", "not readable as a table of tabs in UTF-8"),
        (f"{HEAD}{'a' * 200_000}\t0\t1\tDog\n", "not readable as a table of tabs"),
        *(
            (f"{HEAD}{name}\t0\t1\tDog\n", ":2: filename .*, want a plain file name")
            for name in ("../a.wav", "/etc/passwd", "b/a.wav", "..", ".", "", "..\\a.wav", "a\0.wav", "b/")
        ),
    ],
)
def test_a_table_that_is_not_desed_s_is_refused_in_one_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        read_part(write_table(tmp_path, text), "real-val")
    assert "\n" not in str(caught.value)


def test_weak_labels_are_checked_alike(tmp_path: Path) -> None:
    head = "filename\tevent_labels\n"
    write_table(tmp_path, f"{head}a.wav\tDog,Speech\n", "weak")
    assert [CLASSES[event.label] for event in read_part(tmp_path, "weak").events[0]] == ["Dog", "Speech"]
    for row, message in (("a.wav\tDog,", "class '' is none"), ("../a.wav\tDog", "plain file name")):
        with pytest.raises(BenchError, match=message):
            read_part(write_table(tmp_path, f"{head}{row}\n", "weak"), "weak")


def test_a_missing_table_names_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match=r"has no metadata/validation/validation\.tsv") as caught:
        read_part(tmp_path, "real-val")
    assert caught.value.status == "needs-data"
    assert caught.value.expected == ("metadata/validation/validation.tsv", "audio/validation/validation/*.wav")


@pytest.mark.parametrize(
    ("length", "count"), [(10.0, 10), (10.016, 10), (9.5, 10), (10.2, 11), (0.05, 1), (1.0, 1)], ids=str
)
def test_a_rest_of_a_few_samples_is_no_window(length: float, count: int) -> None:
    windows = EventWindows(listing_of().paths, np.array([length]), listing_of())
    assert windows.counts.tolist() == [count] and windows.ends[0] == min(length, count)


def test_a_window_holds_what_touches_it_and_events_end_with_their_file() -> None:
    dog, cat, frying = (CLASSES.index(name) for name in ("Dog", "Cat", "Frying"))
    listing = listing_of(Event(0.5, 2.0, dog), Event(2.999, 99.0, cat), Event(4.5, 5.0, frying))
    windows = EventWindows(listing.paths, np.array([4.4]), listing)
    assert np.flatnonzero(windows.truth[:, dog]).tolist() == [0, 1]  # it ends where window 2 begins
    assert np.flatnonzero(windows.truth[:, cat]).tolist() == [2, 3, 4]
    assert windows.events == ((Event(0.5, 2.0, dog), Event(2.999, 4.4, cat)),)
    assert windows.beyond == 1 and not windows.truth[:, frying].any()


def test_windows_hold_their_own_second_of_their_own_file(tmp_path: Path) -> None:
    sounds = tmp_path / "audio" / "validation"
    sounds.mkdir(parents=True)
    for name, seconds in (("a.wav", 2.0), ("b.wav", 1.5)):
        step = np.floor(np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
        soundfile.write(sounds / name, 0.1 * (step + 1) + 0.5 * (name == "b.wav"), SAMPLE_RATE, subtype="FLOAT")
    write_table(tmp_path, f"{HEAD}a.wav\t0\t1\tDog\nb.wav\t\t\t\n")
    windows = cut(read_part(tmp_path, "real-val"))
    items = windows.embeddable(SAMPLE_RATE, is_known=False)
    assert items.load is not None and len(items.keys) == len(set(items.keys)) == 4
    loaded = [items.load(number) for number in (3, 0, 1, 2)]  # in any order
    assert {len(sound) for sound in loaded} == {SAMPLE_RATE}
    assert [round(float(sound[100]), 3) for sound in loaded] == [0.7, 0.1, 0.2, 0.6]
    assert loaded[0][-1] == 0  # the rest of the last second is silence
    assert len(windows.embeddable(8000, is_known=False).load(0)) == 8000  # pyright: ignore[reportOptionalCall]


def test_a_file_that_is_no_sound_is_named(tmp_path: Path) -> None:
    write_part(tmp_path, "real-val", files=2)
    path = read_part(tmp_path, "real-val").paths[0]
    path.write_bytes(b"RIFF nothing")
    with pytest.raises(BenchError, match=r"real-val-0\.wav: not readable as sound"):
        cut(read_part(tmp_path, "real-val"))
    for seconds in (0, LONGEST_S + 1):
        soundfile.write(path, np.zeros(round(seconds * 1000)), 1000)
        with pytest.raises(BenchError, match=f"holds {seconds:g} s of sound, want some, up to 60 s"):
            cut(read_part(tmp_path, "real-val"))


def test_a_sound_that_ends_before_its_header_says_is_named(tmp_path: Path) -> None:
    """An mp3 that was cut off reads without an error, and would be silence."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE), SAMPLE_RATE)
    windows = Windows((path,), np.array([length_of(path)]))
    for cut_off in (False, True):
        if cut_off:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        load = windows.items(SAMPLE_RATE, np.zeros(5), ["a"]).load
        assert load is not None
        if not cut_off:
            assert len(load(4)) == SAMPLE_RATE
    with pytest.raises(BenchError, match=r"a\.mp3: holds 2\.\d s of sound, of 5\.0 s in its header; fetch it again"):
        load(0)


def test_a_file_that_is_not_there_is_as_long_as_published() -> None:
    assert cut(listing_of()).counts.tolist() == [10] and CLIP_S < 10
