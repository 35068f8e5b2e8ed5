"""`unibrivl model import` and `model info` as typed: what they print, and how they end."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from typer.testing import CliRunner

from unibrivl.model.commands import app
from unibrivl.model.errors import CheckpointError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint in Wav2CLIP's layout."""
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    state = {f"audio_encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {"audio_encoder.spectrogram.window": torch.hann_window(512), "loss_fn_a.logit_scale": torch.ones(())}
    path = tmp_path_factory.mktemp("wav2clip") / "Wav2CLIP.pt"
    torch.save(state, path)
    return path


def test_import_and_info_tell_the_same(checkpoint: Path, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "towers" / "wav2clip"
    report = json.loads(run(app, ["import", "wav2clip", str(checkpoint), "--out", str(out), "--json"]).stdout)
    assert report["matched"] == 121 and report["missing"] == report["unexpected"] == []
    assert report["ignored"] == {"loss_fn_a": 1} and report["out"] == str(out)
    info = json.loads(run(app, ["info", str(out), "--json"]).stdout)
    assert (info["kind"], info["fingerprint"], info["tensors"]) == ("wav2clip", report["fingerprint"], 121)
    assert info["source"]["keys_ignored"] == 1 and info["source"]["file"] == "Wav2CLIP.pt"
    told = run(app, ["info", str(out)]).stdout
    assert "wav2clip: 11," in told and f"fingerprint: {report['fingerprint']}" in told and "hop 353" in told


def test_without_out_nothing_is_written(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["import", "wav2clip", str(checkpoint)])
    assert done.exit_code == 0 and list(tmp_path.iterdir()) == []
    assert "121 tensors fit" in done.stdout and "1 of loss_fn_a" in done.stdout and "nothing written" in done.stdout


def test_mistakes_of_usage_and_of_files_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    usage = run(app, ["import", "wav2clip", str(checkpoint), "--image-px", "360"])
    assert usage.exit_code == 2 and "--image-px is of brivl" in usage.output
    assert run(app, ["import", "bert", str(checkpoint)]).exit_code == 2
    for words in (["import", "brivl", str(checkpoint)], ["info", str(tmp_path)], ["import", "brivl", str(tmp_path)]):
        failed = run(app, words)
        assert failed.exit_code == 1 and isinstance(failed.exception, CheckpointError)
