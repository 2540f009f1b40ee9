from __future__ import annotations

import json
import shutil

import pytest
import torch
from tapetum.backbones import instructblip, tiny
from tapetum.errors import CheckpointError, ConfigError
from tapetum.images.geometry import InputSpec
from tapetum.images.normalize import CLIP
from transformers import AutoTokenizer, InstructBlipForConditionalGeneration, InstructBlipProcessor

WORDS = (
    "blue green purple red yellow circle cross square triangle black grey white one two three four yes no "
    "left right above below how many shapes what colour background real fake"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.instructblip(tmp_path_factory.mktemp("instructblip") / "tiny")


@pytest.fixture
def changed(directory, tmp_path):
    """The same files, with other values in one of them."""

    def change(name, **values):
        place = tmp_path / "copy"
        if not place.exists():
            shutil.copytree(directory, place)
        file = place / name
        content = json.loads(file.read_text())
        for key, value in values.items():
            node = content
            *way, last = key.split("__")
            for one in way:
                node = node[one]
            node[last] = value
        file.write_text(json.dumps(content))
        return str(place)

    return change


def test_a_tiny_one_is_what_transformers_loads_and_the_image_matters(directory):
    assert {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "qformer_tokenizer/tokenizer.json",
        "qformer_tokenizer/tokenizer_config.json",
    }
    model = InstructBlipForConditionalGeneration.from_pretrained(directory)
    processor = InstructBlipProcessor.from_pretrained(directory)
    assert 300_000 < sum(value.numel() for value in model.parameters()) < 2_000_000
    logits = []
    for image in torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8):
        inputs = processor(images=image, text="How many shapes are there?", return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_the_words_of_questions_about_shapes_are_one_token_each(directory):
    text, questions = (AutoTokenizer.from_pretrained(directory / one) for one in ("", "qformer_tokenizer"))
    for word in WORDS.split():
        for written in (word, f" {word}"):
            assert len(text(written, add_special_tokens=False)["input_ids"]) == 1, written
        assert questions.unk_token_id not in questions(word)["input_ids"], word
    ids = text("ünknown zebra <image>", split_special_tokens=True)["input_ids"]
    assert text.decode(ids, skip_special_tokens=True) == "ünknown zebra <image>"


def test_a_seed_writes_the_same_bytes(directory, tmp_path):
    before = torch.random.get_rng_state()
    again = tiny.instructblip(tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), before)
    for file in directory.rglob("*"):
        if file.is_file():
            assert (again / file.relative_to(directory)).read_bytes() == file.read_bytes(), file.name


def test_preparation_is_that_of_the_processor_in_either_layout(directory, changed):
    expected = (InputSpec((48, 48), "squash", interpolation="bicubic"), CLIP)
    assert instructblip.preprocessing(str(directory)) == expected
    place = changed("processor_config.json")
    whole = json.loads((directory / "processor_config.json").read_text())
    image = {**whole.pop("image_processor"), "image_mean": [0.5] * 3, "resample": 2}
    (directory.__class__(place) / "processor_config.json").write_text(json.dumps(whole))
    (directory.__class__(place) / "preprocessor_config.json").write_text(json.dumps(image))
    found = instructblip.preprocessing(place)
    assert found.input_spec.interpolation == "bilinear"
    assert found.statistics.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_query_tokens": 32}, "num_query_tokens=32, and the Q-Former has 8 queries"),
        ({"image_processor__size": {"height": 224, "width": 224}}, "and the vision tower takes 48x48"),
        ({"image_processor__do_normalize": False}, "does not normalise pixels"),
        ({"image_processor__resample": 9}, "resample=9"),
    ],
)
def test_a_processor_of_another_model_is_refused(changed, values, said):
    with pytest.raises(ConfigError, match=f"does not belong to its model: .*{said}"):
        instructblip.preprocessing(changed("processor_config.json", **values))


def test_a_tokenizer_of_another_model_is_refused(directory, changed):
    image = json.loads((directory / "config.json").read_text())["image_token_index"]
    with pytest.raises(ConfigError, match=rf"has id {image} for the place of an image, .*={image - 1}"):
        instructblip.tokenizers(changed("config.json", image_token_index=image - 1))
    with pytest.raises(ConfigError, match=r"the qformer_tokenizer .* 50 are embedded"):
        instructblip.tokenizers(
            changed("config.json", image_token_index=image, qformer_config__vocab_size=50)
        )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "blip-2"}, "is no InstructBLIP: its config.json says model_type='blip-2'"),
        ({"image_token_index": None}, "says image_token_index=None, .* older revision"),
        ({"image_token_index": 99999}, "says image_token_index=99999"),
        ({"text_config": {"model_type": "t5"}}, r"encoder-decoder .*\(t5\)[\s\S]*instructblip-vicuna-7b"),
        ({"text_config": "llama"}, "has no text_config"),
    ],
)
def test_what_is_no_instructblip_is_refused_with_one_that_is(changed, values, said):
    with pytest.raises(ConfigError, match=said):
        instructblip.read_config(changed("config.json", **values))


def test_published_ones_are_known_without_a_network():
    for name, layers in (("vicuna-7b", 32), ("vicuna-13b", 40)):
        config = instructblip.read_config(f"Salesforce/instructblip-{name}")
        assert config.text_config.num_hidden_layers == layers
        assert (config.num_query_tokens, config.image_token_id) == (32, 32001)
        assert (config.vision_config.image_size, config.vision_config.num_hidden_layers) == (224, 39)
    assert instructblip.preprocessing() == (InputSpec((224, 224), "squash", interpolation="bicubic"), CLIP)
    with pytest.raises(ConfigError, match=r"model\.net\.backbone=Salesforce/instructblip-vicuna-7b"):
        instructblip.read_config("Salesforce/instructblip-flan-t5-xl")


def test_absent_files_are_named(directory, tmp_path):
    instructblip.check_weights(str(directory), True)
    shutil.copytree(directory, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "qformer_tokenizer")
    with pytest.raises(CheckpointError, match=r"holds none of qformer_tokenizer/tokenizer\.json"):
        instructblip.check_weights(str(tmp_path / "copy"), True)
    with pytest.raises(CheckpointError, match="has no tokenizer in qformer_tokenizer"):
        instructblip.tokenizers(str(tmp_path / "copy"))


def test_processor_and_tokenizers_are_copied_as_they_are(directory, tmp_path):
    copies = instructblip.copy_files(str(directory), tmp_path)
    assert len(copies) == 5
    for file in copies:
        assert file.read_bytes() == (directory / file.relative_to(tmp_path)).read_bytes()
