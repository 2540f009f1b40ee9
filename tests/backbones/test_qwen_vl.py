from __future__ import annotations

import json
import resource
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tapetum.backbones import qwen_vl, repository, tiny
from tapetum.errors import CheckpointError, ConfigError
from tapetum.images.normalize import CLIP, Normalize

TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("qwen")
    return {name: tiny.qwen_vl(root / name, model_type=name) for name in TYPES}


@pytest.fixture
def directory(originals, tmp_path):
    return Path(shutil.copytree(originals["qwen2_5_vl"], tmp_path / "qwen"))


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository.on_the_hub.cache_clear()
    return tmp_path / "hub"


def edited(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def whole(directory):
    return transformers.AutoModelForImageTextToText.from_pretrained(directory).eval()


def test_weights_are_those_that_transformers_loads(originals):
    for name, directory in originals.items():
        expected = whole(directory).model.visual.state_dict()
        found = qwen_vl.create_vision(str(directory), pretrained=True).state_dict()
        left_out = {one for one in expected if one.startswith("deepstack_merger_list.")}
        assert found.keys() == expected.keys() - left_out
        assert bool(left_out) == (name == "qwen3_vl")
        assert all(torch.equal(value, expected[one]) for one, value in found.items())


@pytest.mark.parametrize("model_type", TYPES)
def test_tokens_equal_those_of_transformers_for_the_processors_patches(originals, model_type):
    directory = originals[model_type]
    tower = qwen_vl.create_vision(str(directory), pretrained=True).eval()
    side = qwen_vl.unit(tower)
    images = torch.randint(0, 256, (3, 3, 4 * side, 6 * side), dtype=torch.uint8)
    processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(directory)
    inputs = processor(images=list(images), return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 12]] * 3
    normalized = Normalize(*qwen_vl.preprocessing(str(directory)).statistics)(images)
    cut = qwen_vl.patches(normalized, tower.config)
    torch.testing.assert_close(cut, inputs["pixel_values"], rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = whole(directory).model.get_image_features(**inputs).pooler_output
        found = qwen_vl.encode(tower, normalized)
    assert found.shape == (3, 4 * 6, qwen_vl.width(tower))
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


def test_patches_lie_as_counted_by_hand():
    config = transformers.Qwen2VLVisionConfig(patch_size=2, spatial_merge_size=2, temporal_patch_size=2)
    images = torch.arange(2 * 3 * 4 * 8).reshape(2, 3, 4, 8).float()
    cut = qwen_vl.patches(images, config).reshape(2, 1, 2, 2, 2, 3, 2, 2, 2)
    for image, column, down, right, channel, frame in np.ndindex(2, 2, 2, 2, 3, 2):
        top, left = 2 * down, 4 * column + 2 * right
        expected = images[image, channel, top : top + 2, left : left + 2]
        assert torch.equal(cut[image, 0, column, down, right, channel, frame], expected)


def test_an_image_has_the_same_tokens_alone_and_in_a_batch(originals):
    tower = qwen_vl.create_vision(str(originals["qwen2_5_vl"]), pretrained=True).eval()
    images = torch.randn(3, 3, 84, 112)
    with torch.no_grad():
        alone = torch.cat([qwen_vl.encode(tower, image[None]) for image in images])
        torch.testing.assert_close(qwen_vl.encode(tower, images), alone, rtol=0, atol=1e-5)


def test_half_precision_files_become_float32(directory, tmp_path):
    whole(directory).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    shutil.copy(directory / "preprocessor_config.json", tmp_path / "half")
    for pretrained in (True, False):
        tower = qwen_vl.create_vision(str(tmp_path / "half"), pretrained=pretrained)
        assert {value.dtype for value in tower.parameters()} == {torch.float32}


def test_only_parts_with_something_of_the_tower_are_needed(directory):
    state = load_file(directory / "model.safetensors")
    expected = qwen_vl.create_vision(str(directory), pretrained=True).state_dict()
    (directory / "model.safetensors").unlink()
    tower = sorted(name for name in state if name.startswith("visual."))
    parts = {"a.safetensors": tower[::2], "b.safetensors": tower[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, directory / file)
    parts["language.safetensors"] = sorted(set(state) - set(tower))  # and no such file
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    found = qwen_vl.create_vision(str(directory), pretrained=True).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    (directory / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lists b\.safetensors, which is not there"):
        qwen_vl.create_vision(str(directory), pretrained=True)


def test_a_language_model_in_the_same_file_stays_on_the_disk(directory):
    # 4 GiB of language model that take no room on the disk: a hole, which reads as zeros.
    file, size = directory / "model.safetensors", 4 * 2**30
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, tensors = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    header["model.layers.9.big.weight"] = {
        "dtype": "F32",
        "shape": [size // 4],
        "data_offsets": [len(tensors), len(tensors) + size],
    }
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text + tensors)
        opened.truncate(8 + len(text) + len(tensors) + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    qwen_vl.create_vision(str(directory), pretrained=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # of 4 * 2**20 kB


def test_weights_come_from_a_file_of_their_own_in_each_naming(directory, tmp_path):
    expected = qwen_vl.create_vision(str(directory), pretrained=True).state_dict()
    for number, prefix in enumerate(("", "visual.", "model.visual.")):
        named = {f"{prefix}{name}": value for name, value in expected.items()}
        named |= {"lm_head.weight": torch.zeros(3)} if prefix else {}
        for file in (tmp_path / f"{number}.safetensors", tmp_path / f"{number}.pth"):
            (save_file if file.suffix == ".safetensors" else torch.save)(named, file)
            found = qwen_vl.create_vision(str(directory), pretrained=str(file)).state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_published_towers_have_their_parameters_without_a_network(no_cache):
    # Parameters of the released files minus those of the language model in them, which has a release of its
    # own; of Qwen3-VL also minus its three deepstack mergers: LayerNorm, Linear, Linear.
    def mergers(h, out):
        return 3 * (2 * 4 * h + (4 * h) ** 2 + 4 * h + 4 * h * out + out)

    counts = {
        "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600 - 1_543_714_304,
        "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616 - 7_615_616_512,
        "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976 - 3_085_938_688,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656 - 7_615_616_512,
        "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032 - 1_720_574_976 - mergers(1024, 2048),
        "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808 - 4_022_468_096 - mergers(1024, 2560),
        "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696 - 8_190_735_360 - mergers(1152, 4096),
    }
    assert counts.keys() == qwen_vl.PUBLISHED.keys()
    for backbone, count in counts.items():
        with torch.device("meta"):
            tower = qwen_vl.create_vision(backbone, pretrained=True)
        assert sum(value.numel() for value in tower.parameters()) == count, backbone
        assert qwen_vl.unit(tower) == (32 if "Qwen3" in backbone else 28)
        side = qwen_vl.unit(tower) * 8
        assert qwen_vl.encode(tower, torch.empty(2, 3, side, side, device="meta")).shape[:2] == (2, 64)
    assert qwen_vl.preprocessing("Qwen/Qwen2-VL-2B-Instruct") == ("bicubic", CLIP)
    assert qwen_vl.preprocessing("Qwen/Qwen3-VL-2B-Instruct").statistics.mean == (0.5, 0.5, 0.5)


def test_the_published_layout_of_a_config_is_understood(directory):
    # Of 2024: the language model's figures at the top, the vision part with the whole's model type.
    flat = json.loads((directory / "config.json").read_text())
    flat["vision_config"] |= {"model_type": "qwen2_5_vl", "in_chans": 3, "torch_dtype": "bfloat16"}
    flat |= {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, **flat.pop("text_config")}
    (directory / "config.json").write_text(json.dumps(flat | {"model_type": "qwen2_5_vl"}))
    tower = qwen_vl.create_vision(str(directory), pretrained=True)
    assert {value.dtype for value in tower.parameters()} == {torch.float32}


@pytest.mark.parametrize("backbone", ["Qwen/Qwen-VL-Chat", "Qwen/Qwen-VL", "a directory"])
def test_the_first_qwen_vl_names_its_successors(backbone, directory, no_cache):
    if backbone == "a directory":
        (directory / "config.json").write_text(
            json.dumps({"model_type": "qwen", "visual": {}, "auto_map": {"AutoModel": "modeling_qwen.Q"}})
        )
        backbone = str(directory)
    for look in (
        lambda: qwen_vl.preprocessing(backbone),
        lambda: qwen_vl.create_vision(backbone, pretrained=True),
    ):
        with pytest.raises(
            ConfigError, match=r"(?s)trust_remote_code.*backbone=Qwen/Qwen2-VL-2B-Instruct"
        ) as said:
            look()
        assert all(
            f"model.net.backbone=Qwen/Qwen{one}" in str(said.value) for one in ("2.5-VL-3B", "3-VL-2B")
        )


def test_a_directory_that_is_no_qwen_vl_is_named(directory, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"is no Qwen-VL: it has no config\.json"):
        qwen_vl.create_vision(str(tmp_path / "empty"), pretrained=True)
    with pytest.raises(ConfigError, match="neither a directory that exists nor the id"):
        qwen_vl.create_vision("./nowhere/at all", pretrained=True)
    with pytest.raises(ConfigError, match="model_type='clip', and qwen2_vl, qwen2_5_vl, qwen3_vl are known"):
        qwen_vl.create_vision(str(tiny.clip(tmp_path / "clip")), pretrained=True)
    content = json.loads((directory / "config.json").read_text())
    for vision, message in (
        (None, "has no vision_config"),
        (content["vision_config"] | {"depth": "many"}, "is damaged"),
    ):
        edited(directory / "config.json", vision_config=vision)
        with pytest.raises(ConfigError, match=message):
            qwen_vl.create_vision(str(directory), pretrained=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 16}, "belongs to another model: its patch_size is 16, that of the vision tower 14"),
        ({"merge_size": 3}, "its merge_size is 3"),
        ({"do_normalize": False}, "does not normalise"),
        ({"rescale_factor": 1.0}, "does not normalise"),
        ({"resample": 1}, "resample=1"),
    ],
)
def test_processors_that_do_something_else_are_refused(directory, values, message):
    edited(directory / "preprocessor_config.json", **values)
    with pytest.raises(ConfigError, match=message):
        qwen_vl.preprocessing(str(directory))


def test_what_is_absent_or_of_another_model_is_said(directory, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        qwen_vl.create_vision(str(directory), pretrained=str(tmp_path / "nowhere"))
    save_file({"model.layers.0.w": torch.zeros(1)}, tmp_path / "language.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no vision tower.*there are model\.layers\.0\.w"):
        qwen_vl.create_vision(str(directory), pretrained=str(tmp_path / "language.safetensors"))
    other = tiny.qwen_vl(tmp_path / "other", model_type="qwen2_vl")
    with pytest.raises(CheckpointError, match="missing in the file"):
        qwen_vl.create_vision(str(directory), pretrained=str(other))
    (directory / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="damaged or not a weight file"):
        qwen_vl.create_vision(str(directory), pretrained=True)
    (directory / "model.safetensors").unlink()
    with torch.device("meta"), pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        qwen_vl.create_vision(str(directory), pretrained=True)
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="does not say how images are prepared"):
        qwen_vl.preprocessing(str(directory))


def test_a_hub_id_without_network_gives_the_two_commands(no_cache):
    backbone = "Qwen/Qwen2-VL-2B-Instruct"
    expected = rf"(?s)hf download {backbone}.*tapetum tiny qwen_vl tiny-qwen-vl.*net\.backbone=tiny-qwen-vl"
    for look in (
        lambda: qwen_vl.create_vision(backbone, pretrained=True),
        lambda: qwen_vl.check_weights(backbone, True),
    ):
        with pytest.raises(CheckpointError, match=expected):
            look()
    qwen_vl.check_weights(backbone, False)


def test_no_code_of_a_directory_is_run(directory, tmp_path):
    marker = tmp_path / "ran"
    (directory / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    edited(directory / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    qwen_vl.create_vision(str(directory), pretrained=True)
    assert not marker.exists()
