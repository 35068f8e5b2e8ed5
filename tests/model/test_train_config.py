"""Every option has a name, presets are what their sources say, and what is unknown is refused with a hint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from unibrivl.model.errors import CheckpointError, TrainError
from unibrivl.model.train_config import ELSEWHERE, PRESETS, TrainConfig, change_config, make_config, option_names

SHARDS, OUT = Path("s"), Path("o")


def make(preset: str | None = None, **settings: Any) -> TrainConfig:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return make_config(SHARDS, OUT, named, preset=preset)


def test_without_settings_it_is_the_default() -> None:
    assert make() == TrainConfig(shards=SHARDS, out=OUT)


def test_the_papers_values() -> None:
    """K, m, T and the towers; see the design notes on the paper's section 3.4."""
    config = make("paper", language__clip_s=5.0)
    loss = config.loss
    assert (loss.queue_size, loss.momentum, loss.temperature, loss.reduction) == (9600, 0.99, 0.07, "sum")
    assert config.language_tower.startswith("speechlm") and config.image_tower.startswith("brivl-b7")
    assert config.precision == "bf16" and loss.queue_size % (config.batch_size * config.accumulate) == 0
    assert config.tower_options == {"clip_s": 5.0}


def test_wav2clips_values() -> None:
    config = make("wav2clip")
    assert (config.batch_size, config.lr, config.weight_decay, config.epochs) == (128, 1e-3, 0.0, 100)
    assert (config.loss.queue_size, config.loss.reduction, config.loss.learned_temperature) == (0, "mean", True)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_made_and_changed(preset: str) -> None:
    config = make(preset, lr=0.5, loss__temperature=0.1)
    assert (config.lr, config.loss.temperature) == (0.5, 0.1)
    json.dumps(config.stored())


def test_a_presets_tower_options_go_with_its_tower() -> None:
    assert make("tiny").tower_options == {"clip_s": 1.6, "num_mels": 32}
    assert make("tiny", language_tower="speechlm-base").tower_options == {}
    assert make("tiny", language_tower="wav2clip", hop=500).tower_options == {
        "clip_s": 1.6, "num_mels": 32, "hop": 500,
    }  # fmt: skip


def test_options_of_the_tower_may_stand_alone() -> None:
    assert make(num_mels=64) == make(language__num_mels=64)
    assert make("tiny", language_tower="speechlm-base", head_layers=2).tower_options == {"head_layers": 2}


def test_changing_keeps_the_rest() -> None:
    config = make("tiny", epochs=7)
    changed = change_config(config, {"loss.queue_size": 32, "language.hop": 500})
    assert (changed.epochs, changed.loss.queue_size) == (7, 32)
    assert changed.tower_options == config.tower_options | {"hop": 500}
    assert change_config(config, {}) == config


def test_every_field_has_a_name_of_its_own() -> None:
    names = option_names("wav2clip")
    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"shards", "out", "loss", "tower_options"}
    assert fields <= names.keys() and {"loss.queue_size", "language.num_mels"} <= names.keys()
    assert all(name in fields or "." in name for name in names)
    assert "language.size" not in option_names("speechlm-base")  # it is part of the tower's name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epoch": 3}, "no option 'epoch'; did you mean epochs"),
        ({"language.mels": 3}, "no option 'language.mels'; did you mean language.num_mels"),
        ({"shards": "x"}, "no option 'shards'"), ({"tower_options": {}}, "no option 'tower_options'"),
        ({"loss": {}}, "no option 'loss'"), ({"epochs": 1.5}, "epochs is 1.5, want a whole number"),
        ({"num_mels": "many"}, "num_mels is 'many', want a whole number"), ({"epochs": 0}, "epochs is 0, want 1 to"),
        ({"loss.momentum": 2}, "momentum is 2.0, want 0 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_config(SHARDS, OUT, settings)


def test_unknown_presets_and_towers_are_named() -> None:
    with pytest.raises(ValueError, match="no preset 'huge'; there are paper, wav2clip, tiny"):
        make("huge")
    with pytest.raises(CheckpointError, match="language tower 'bert' is unknown"):
        make(language_tower="bert")


def test_what_is_stored_says_which_runs_are_the_same() -> None:
    config = make("tiny")
    assert not set(ELSEWHERE) & config.stored().keys()
    elsewhere = dataclasses.replace(config, out=Path("p"), shards=Path("q"), workers=3, tensorboard=True, device="cpu")
    assert elsewhere.stored() == config.stored()
    apart = make(language_tower="speechlm-base")
    assert dataclasses.replace(apart, sharded=True).stored() == apart.stored()
    assert dataclasses.replace(config, accumulate=2).stored() != config.stored()


@pytest.mark.parametrize("tower", ["wav2clip", "tdnn"])
def test_a_tower_that_cannot_lie_in_parts_is_refused(tower: str) -> None:
    with pytest.raises(ValueError, match=rf"sharded is true, and language tower {tower} has no layers"):
        make(language_tower=tower, sharded=True)


def test_processes_share_the_batch_evenly_or_are_refused() -> None:
    config = make(batch_size=12)
    assert [config.batch_of_each(count) for count in (1, 2, 3, 4, 6)] == [12, 6, 4, 3, 2]
    for count in (5, 12):
        with pytest.raises(
            TrainError, match=rf"batch_size is 12, want a multiple of the {count} processes and 2 clips"
        ):
            config.batch_of_each(count)
