"""`tapetum predict`: one's own images through a run, or a model with weights, from the command line."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from PIL import Image
from tapetum.cli import main
from tapetum.commands.predict import from_run, from_weights

from commands.experiments import PLAIN, TINY, run, train
from layouts import make_image


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        make_image(tmp_path / "photos" / f"{number}.png", generated=bool(number % 2), seed=number)
    return tmp_path / "photos"


def predict(*words, code=0):
    assert run("predict", *map(str, words)) == code


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_a_table_and_the_words_say_how(finished, photos, tmp_path, capsys):
    (photos / "notes.txt").write_text("")
    predict(finished, photos, tmp_path / "out" / "photos.csv")
    said = capsys.readouterr().out
    table = tapetum.load(finished).predict([photos / f"{n}.png" for n in range(6)])
    found = rows(tmp_path / "out" / "photos.csv")
    assert [row["path"] for row in found] == [str(photos / f"{n}.png") for n in range(6)]
    for name in ("logit", "probability"):
        assert [float(row[name]) for row in found] == pytest.approx(table[name].to_pylist(), abs=1e-6)
    for name in ("verdict", "band"):
        assert [row[name] for row in found] == table[name].to_pylist()
    assert "files left out that are no images by their ending: 1" in said
    assert "fitted on the run's validation" in said
    assert f"written {tmp_path / 'out' / 'photos.csv'}: 6 images," in said


def test_every_kind_of_input_and_output(finished, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open("a.tar", "w") as archive:
        archive.add(photos / "0.png", "x/0.png")
    (tmp_path / "list.txt").write_text("photos/3.png\nphotos/1.png\n")
    predict(finished, "photos/5.png", "photos/[24].png", "list.txt", "a.tar", "a.tar::x/0.png", "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    expected = ["photos/5.png", "photos/2.png", "photos/4.png", "photos/3.png", "photos/1.png"]
    assert [row["path"] for row in found] == [*expected, "a.tar::x/0.png", "a.tar::x/0.png"]
    predict(finished, "out.json".replace("json", "txt"), "none.csv", code=1)
    predict(finished, "photos", "out.parquet")
    assert pq.read_table("out.parquet").column_names == list(found[0])


def test_a_file_that_looks_like_an_override_is_a_file(finished, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "a=b.png").write_bytes((photos / "0.png").read_bytes())
    predict(finished, "a=b.png", tmp_path / "out.csv")
    assert [row["path"] for row in rows(tmp_path / "out.csv")] == ["a=b.png"]


@pytest.mark.parametrize("threshold", ["config", "fitted", "0.9"])
def test_the_threshold_is_the_users_choice(finished, photos, tmp_path, capsys, threshold):
    predict(finished, photos, tmp_path / "out.csv", f"threshold={threshold}")
    fitted = json.loads((finished / "metrics.json").read_text())["val/threshold"]
    cut = {
        "config": lambda logit: logit >= 0,
        "fitted": lambda logit: logit > fitted,
        "0.9": lambda logit: logit >= torch.logit(torch.tensor(0.9)),
    }[threshold]
    for row in rows(tmp_path / "out.csv"):
        assert row["verdict"] == ("generated" if cut(float(row["logit"])) else "real")
    named = {"config": "model.thresholds.classification", "fitted": "validation", "0.9": "threshold=0.9"}
    assert named[threshold] in capsys.readouterr().out


def test_bands_are_the_users_choice_and_keep_their_order(finished, photos, tmp_path, capsys):
    predict(finished, photos, tmp_path / "out.csv", "model.thresholds.high=0.5", "model.thresholds.low=0.5",
            "threshold=config")  # fmt: skip
    assert {row["band"] for row in rows(tmp_path / "out.csv")} == {"high"}
    predict(finished, photos, tmp_path / "out.csv", "model.thresholds.low=0.6", code=2)
    assert "low=0.6, classification=0.5, high=0.8 must lie in this order" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["model.thresholds.low=0.6"], ["model.thresholds.high=0.4"],
                                   ["model.thresholds.classification=0.9"]])  # fmt: skip
def test_check_demands_thresholds_in_order(capsys, words):
    assert main(["check", *words]) == 2
    assert "must lie in this order between 0 and 1" in capsys.readouterr().err
    assert main(["check", "model.thresholds.low=0.5", "model.thresholds.high=0.5"]) == 0


def test_what_cannot_be_read_is_told_and_the_exit_code_says_so(finished, photos, tmp_path, capsys):
    for number in range(7):
        (photos / f"bad {number}.jpg").write_bytes(b"")
    out = tmp_path / "out.csv"
    predict(finished, photos, out, code=3)
    said = capsys.readouterr().out
    assert f"no prediction for 7, all listed in {out}.unreadable.csv" in said
    assert f"{photos / 'bad 0.jpg'}: the file is empty (0 bytes)" in said
    assert "… and 2 more" in said
    assert len(rows(out)) == 6
    assert len(rows(tmp_path / "out.csv.unreadable.csv")) == 7


@pytest.mark.parametrize("kind", ["ckpt", "run", "pt"])
def test_a_model_with_weights_needs_no_run_and_no_data(finished, photos, tmp_path, kind, capsys):
    checkpoint = finished / "checkpoints" / "best.ckpt"
    weights = {"ckpt": checkpoint, "run": finished, "pt": tmp_path / "weights.pt"}[kind]
    if kind == "pt":
        state = tapetum.load(finished, device="cpu").module.net.state_dict()
        torch.save(state, weights)
    predict(photos, tmp_path / "out.csv", *TINY, f"weights={weights}")
    assert "model.thresholds.classification" in capsys.readouterr().out
    expected = tapetum.load(finished, device="cpu").predict([photos / f"{n}.png" for n in range(6)])
    found = [float(row["logit"]) for row in rows(tmp_path / "out.csv")]
    assert found == pytest.approx(expected["logit"].to_pylist(), abs=1e-6)
    predict(photos, tmp_path / "out.csv", *TINY, f"weights={weights}", "threshold=fitted", code=2)
    assert "threshold=fitted, but validation has fitted none" in capsys.readouterr().err


def test_the_same_in_python(finished, photos, tmp_path):
    predict(finished, photos, tmp_path / "verb.csv", "trainer.precision=bf16-mixed", "accelerator=cpu")
    predictor = from_run(str(finished), ["trainer.precision=bf16-mixed", "accelerator=cpu"])
    predictor.predict_files(photos, tmp_path / "python.csv")
    assert (tmp_path / "verb.csv").read_bytes() == (tmp_path / "python.csv").read_bytes()
    exact = from_weights([*TINY, f"weights={finished}"]).predict(sorted(photos.iterdir()))
    rounded = predictor.predict(sorted(photos.iterdir()))
    difference = abs(exact["logit"].to_numpy() - rounded["logit"].to_numpy()).max()
    assert 0 < difference < 0.2


def test_a_network_of_ones_own_needs_to_be_allowed_again(folder, photos, tmp_path, capsys):
    made = train(folder, tmp_path, *PLAIN)
    predict(made, photos, tmp_path / "out.csv", code=2)
    assert "own_parts" in capsys.readouterr().err
    predict(made, photos, tmp_path / "out.csv", "allow_targets=[own_parts]")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "and there is nothing: tapetum predict RUN INPUT… OUTPUT, or tapetum predict INPUT… OUTPUT"),
        (["{run}", "{photos}"], 2, "a run (or model=… weights=FILE), images and an output are needed"),
        (["{photos}", "{photos}", "{out}"], 1, "photos is not a run"),
        (["{run}", "{photos}", "{out}", "--threshold", "1"], 2, "--threshold is a flag, and there are none"),
        (["{run}", "{photos}", "{out}", "threshold=fited"], 2, "did you mean fitted?"),
        (["{run}", "{photos}", "{out}", "threshold=2"], 2, "threshold=2.0: it is config, fitted or a prob"),
        (
            ["{run}", "{photos}", "{out}", "data=cifake"],
            2,
            "data=cifake would change the run, or says nothing",
        ),
        (["{run}", "{photos}", "{out}", "model.thresholds.hi=1"], 2, "model.thresholds.hi"),
        (["{run}", "{photos}", "{out}", "data.eval_batch_size=0"], 2, "data.eval_batch_size=0 must be"),
        (["{run}", "{photos}", "{out}.xls"], 2, "it must be .csv, .json, .parquet"),
        (["{run}", "{photos}", "{photos}"], 1, "photos is a folder: name a file in it"),
        (["{run}", "{photos}", "/proc/out.csv"], 1, "/proc/out.csv cannot be written"),
        (["{run}", "{empty}", "{out}"], 1, "holds no image: files that end in .bmp, .dib,"),
        (["{run}", "nowhere", "{out}"], 1, "nowhere: there is no such file or folder"),
        (["{photos}", "{out}", "model=npr"], 1, "this model has not been trained"),
        (["{photos}", "{out}", "model=npr", "weights=nowhere"], 2, "weights=nowhere does not exist"),
        (["{photos}", "{out}", "model=nrp", "weights={run}"], 2, "did you mean npr"),
        (["{photos}", "{out}", "model=npr", "weights={run}"], 1, "holds weights of another network"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    finished, photos, tmp_path, capsys, words, code, message
):
    (tmp_path / "empty").mkdir()
    places = {"run": finished, "photos": photos, "out": tmp_path / "out.csv", "empty": tmp_path / "empty"}
    predict(*[word.format(**places) for word in words], code=code)
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_a_run_of_another_version_is_refused_by_name(finished, photos, tmp_path, capsys):
    run_of_old = tmp_path / "old"
    (run_of_old / "checkpoints").mkdir(parents=True)
    (run_of_old / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["tapetum"]["format"] = 99
    torch.save(checkpoint, run_of_old / "checkpoints" / "best.ckpt")
    predict(run_of_old, photos, tmp_path / "out.csv", code=1)
    assert "has checkpoint format 99, this version reads" in capsys.readouterr().err


def test_a_threshold_that_is_no_number_is_refused(finished, photos, tmp_path, capsys):
    copy = tmp_path / "copy"
    (copy / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        (copy / name).write_bytes((finished / name).read_bytes())
    (copy / "metrics.json").write_text('{"val/threshold": NaN}')
    predict(copy, photos, tmp_path / "out.csv", code=1)
    assert "metrics.json says val/threshold=nan, which is no logit" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_and_pillows_warnings_stay_away(
    finished, photos, tmp_path, monkeypatch, recwarn
):
    from rich.console import Console
    from tapetum.commands import console

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "0.png").save(photos / "warns.jpg", exif=exif.tobytes()[:-8])
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=120))
    predict(finished, photos, tmp_path / "out.csv")
    assert "predicting" in screen.getvalue()
    assert "7/7" in screen.getvalue()
    assert [one for one in recwarn if "PIL" in one.filename] == []
