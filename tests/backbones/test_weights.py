import argparse
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from tapetum.backbones.weights import WRAPPERS, load_weights, read_state_dict
from tapetum.errors import CheckpointError
from torch import nn


class Unpickled:
    """Writes a file when it is read by an unguarded unpickler."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def _same(network, state):
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapper_of_the_field_loads(tmp_path, wrapper, prefix):
    state = _network().state_dict()
    content = {prefix + name: value for name, value in state.items()}
    if wrapper:
        content = {wrapper: content, "epoch": 3, "optimizer": {"lr": 0.1}, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "weights.pth")
    network = _network()
    assert not _same(network, state)
    load_weights(network, tmp_path / "weights.pth")
    assert _same(network, state)


def test_safetensors_and_the_legacy_torch_format_load(tmp_path):
    state = _network().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for file in ("weights.safetensors", "legacy.pth"):
        network = _network()
        load_weights(network, tmp_path / file)
        assert _same(network, state)


def test_published_names_are_mapped_dropped_and_left_out_as_declared(tmp_path):
    network = nn.ModuleDict({"tower": nn.Linear(4, 3), "head": nn.Linear(3, 1)})
    tower = {name: value.clone() for name, value in network["tower"].state_dict().items()}
    published = {
        "model.fc.weight": torch.ones(1, 3),
        "model.fc.bias": torch.ones(1),
        "aux.0.weight": torch.ones(2),
        "logit_scale": torch.ones(()),
    }
    torch.save(published, tmp_path / "fc.pth")
    load_weights(
        network,
        tmp_path / "fc.pth",
        rename={"model.fc.": "head."},
        drop=("aux.", "logit_scale"),
        elsewhere=("tower.weight", "tower.bias"),
    )
    assert torch.equal(network["head"].weight, torch.ones(1, 3))
    assert _same(network["tower"], tower)


def test_a_file_of_another_architecture_is_refused_with_counts_and_the_first_few_names(tmp_path):
    other = nn.Sequential(nn.Linear(5, 2), *(nn.Linear(2, 2) for _ in range(3)))
    torch.save(other.state_dict(), tmp_path / "other.pth")
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, tmp_path / "other.pth")
    assert str(caught.value).splitlines()[1:4] == [
        "  3 missing in the file: 1.running_mean, 1.running_var, 1.num_batches_tracked",
        "  4 unknown to the network: 2.weight, 2.bias, 3.weight and 1 more",
        "  2 of another shape: 0.weight (2x5 in the file, 2x3 in the network), "
        "1.weight (2x2 in the file, 2 in the network)",
    ]
    assert _same(network, before)


def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path):
    trap = tmp_path / "ran"
    torch.save({"model": {}, "trap": Unpickled(trap)}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"trap": Unpickled(trap)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"pickled Python objects \(\S*open\).*refused"):
        read_state_dict(tmp_path / "zip.pth")
    with pytest.raises(CheckpointError, match=r"bare\.pth"):
        read_state_dict(tmp_path / "bare.pth")
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, suffix, damage):
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(_network().state_dict(), file)
    else:
        save_file(_network().state_dict(), file)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404"}[damage])
    with pytest.raises(CheckpointError, match=rf"weights\{suffix} is damaged or not a weight file"):
        read_state_dict(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weights": {"a": torch.ones(1)}}, "found: keys epoch, weights"),
        ({}, "found: keys"),
        ([torch.ones(1)], "found: list"),
        ({"model": {"a": torch.ones(1)}, "net": {"a": torch.ones(1)}}, "several sets of weights"),
    ],
)
def test_a_file_without_one_state_dict_is_an_error_that_says_what_it_holds(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "weights.pth")


def test_an_absent_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weight file at .*absent"):
        read_state_dict(tmp_path / "absent.pth")


def test_the_one_file_in_an_archive_is_read_and_of_several_none(tmp_path):
    state = _network().state_dict()
    torch.save({"model": state}, tmp_path / "release.pth")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:  # C2P-CLIP's release
        archive.write(tmp_path / "release.pth", "folder/release.pth")
    network = _network()
    load_weights(network, tmp_path / "release.zip")
    assert _same(network, state)
    torch.save(state, tmp_path / "own.zip")  # torch's own files are archives as well
    assert set(read_state_dict(tmp_path / "own.zip")) == set(state)
    with zipfile.ZipFile(tmp_path / "release.zip", "a") as archive:
        archive.writestr("README.md", "how to use it")
    with pytest.raises(CheckpointError, match=r"2 files \(folder/release\.pth, README\.md\).*unpack it"):
        read_state_dict(tmp_path / "release.zip")
    with zipfile.ZipFile(tmp_path / "objects.zip", "w") as archive:
        archive.writestr("objects.pth", pickle.dumps(Unpickled(tmp_path / "written"), protocol=2))
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        read_state_dict(tmp_path / "objects.zip")
    assert not (tmp_path / "written").exists()
