"""Settings: four sources in one order, and an error that names what is wrong."""

from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.settings import Settings, load
from engine.threshold import Threshold


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "saestream.toml"
    config.write_text('port = 1111\nthreads = 3\nthreshold = 0.25\nhost = "::1"\n')
    monkeypatch.setenv("SAESTREAM_PORT", "2222")
    monkeypatch.setenv("SAESTREAM_THREADS", "4")
    settings = load(config, port=3333, model=None)
    assert (settings.port, settings.threads, settings.threshold, settings.host) == (3333, 4, Threshold(value=0.25), "::1")
    assert settings.published_k == Settings.model_fields["published_k"].default


def test_settings_survive_the_way_to_a_child_process_whatever_its_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(dictionary=[8, 16], pairs=[(0, 1)], threshold=0.5)
    monkeypatch.setenv("SAESTREAM_THRESHOLD", "9")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("given", "kind", "value", "written"),
    [
        pytest.param(0, "absolute", 0.0, "0", id="zero"),
        pytest.param(0.5, "absolute", 0.5, "0.5", id="number"),
        pytest.param("2", "absolute", 2.0, "2", id="number as text"),
        pytest.param("0.2max", "relative", 0.2, "0.2max", id="share of the maximum"),
        pytest.param("0.1234567890123max", "relative", 0.1234567890123, "0.1234567890123max", id="every digit counts"),
    ],
)
def test_a_threshold_has_two_forms_from_every_source(
    given: float | str, kind: str, value: float, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "saestream.toml"
    config.write_text(f"threshold = {given!r}\n")
    from_file, from_command_line = load(config), load(threshold=given)
    monkeypatch.setenv("SAESTREAM_THRESHOLD", str(given))
    for settings in (from_file, from_command_line, load(), Settings.model_validate_json(from_file.model_dump_json())):
        assert (settings.threshold.kind, settings.threshold.value, str(settings.threshold)) == (kind, value, written)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"port": 99_999}, ["port", "99999", "65535"], id="port out of range"),
        pytest.param({"model": "gpt2"}, ["--model", "--saes"], id="model without SAEs"),
        pytest.param({"saes": "gpt2-small-res-jb"}, ["--saes", "--model"], id="SAEs without model"),
        pytest.param({"dictionary": [8]}, ["--dictionary", "[8]"], id="one layer only"),
        pytest.param({"dictionary": [8, 0]}, ["--dictionary", "[8, 0]"], id="empty dictionary"),
        pytest.param({"dictionary": [8, 8], "model": "m", "saes": "s"}, ["--dictionary", "--model"], id="dictionary and model"),
        pytest.param({"threshold": -1.0}, ["threshold", "-1.0"], id="negative threshold"),
        pytest.param({"threshold": "0.2mx"}, ["threshold", "'0.2mx'", "0.5", "0.2max"], id="threshold of another form"),
        pytest.param({"threshold": "max"}, ["threshold", "'max'", "0.2max"], id="threshold without a number"),
        pytest.param({"threshold": "20%"}, ["threshold", "'20%'", "0.2max"], id="threshold in per cent"),
        pytest.param({"threshold": "1max"}, ["threshold", "'1max'", "between 0 and 1"], id="threshold at the maximum"),
        pytest.param({"threshold": "0max"}, ["threshold", "'0max'", "between 0 and 1"], id="no share of the maximum"),
        pytest.param({"threshold": "nanmax"}, ["threshold", "'nanmax'"], id="threshold relative NaN"),
        pytest.param({"threshold": "inf"}, ["threshold", "'inf'"], id="threshold infinite"),
        pytest.param({"threshold": True}, ["threshold", "True", "0.2max"], id="threshold true"),
        pytest.param({"calibration_tokens": 0}, ["calibration_tokens", "0", "1"], id="calibration on nothing"),
        pytest.param({"device": "tpu"}, ["device", "tpu", "cuda"], id="unknown device"),
        pytest.param({"prot": 1}, ["prot"], id="unknown setting"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_value_and_what_would_be_right(given: dict[str, object], named: list[str]) -> None:
    with pytest.raises(BadInput) as refusal:
        load(**given)
    for word in named:
        assert word in refusal.value.message


def test_a_config_file_that_is_missing_broken_or_misspelt_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = = 1")
    with pytest.raises(BadInput, match=r"broken\.toml"):
        load(broken)
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text("prot = 1")
    with pytest.raises(BadInput, match="prot"):
        load(misspelt)
