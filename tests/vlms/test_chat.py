from __future__ import annotations

import pickle

import pytest
import torch
import transformers
from tapetum.backbones import qwen_vl_models, tiny
from tapetum.errors import ConfigError, DataError
from tapetum.vlms.chat import ChatEncoder

TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
ONE = [
    {"role": "user", "content": "<image>\nWhat colour is the circle?"},
    {"role": "assistant", "content": "red"},
]
TWO = [
    {"role": "user", "content": "Is <image> larger than <image>?"},
    {"role": "assistant", "content": "yes, it is"},
]
TURNS = [SYSTEM, *TWO, {"role": "user", "content": "And this: <image>"}, ONE[1]]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("chat")
    return {name: tiny.qwen_vl(root / name, model_type=name) for name in TYPES}


@pytest.fixture
def encoder(directories):
    return encoder_of(directories["qwen2_5_vl"])


def encoder_of(directory, grid=(2, 4), **arguments):
    tokenizer = qwen_vl_models.tokenizer(str(directory))
    image_id = qwen_vl_models.read_config(str(directory)).image_token_id
    return ChatEncoder(tokenizer, image_id, grid, **arguments)


def typed(conversation):
    """The same in the parts that transformers' processors want."""
    messages = []
    for message in conversation:
        texts = message["content"].replace("<image>\n", "<image>").split("<image>")
        parts = [{"type": "text", "text": texts[0]}]
        for text in texts[1:]:
            parts += [{"type": "image"}, {"type": "text", "text": text}]
        messages.append({"role": message["role"], "content": parts})
    return messages


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("conversation", [ONE, TWO, TURNS], ids=["one", "two", "turns"])
def test_ids_and_labels_are_those_of_transformers_own_processor(directories, model_type, conversation):
    directory = directories[model_type]
    processor = transformers.AutoProcessor.from_pretrained(directory)
    side = 2 * processor.image_processor.patch_size
    count = sum(message["content"].count("<image>") for message in conversation)
    images = [torch.zeros(3, 2 * side, 4 * side, dtype=torch.uint8)] * count
    # transformers marks an assistant's tokens where the template says so.
    marked = (
        "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
        "{%- if message.role == 'assistant' -%}{%- generation -%}"
        "{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}{{- '<|im_end|>' -}}"
        "{%- endgeneration -%}{{- '\\n' -}}"
        "{%- else -%}{%- for part in message.content -%}{%- if part.type == 'image' -%}"
        "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- else -%}{{- part.text -}}{%- endif -%}"
        "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    )
    text = processor.apply_chat_template(typed(conversation), tokenize=False)
    expected = processor(text=[text], images=images, return_tensors="pt")
    found = encoder_of(directory)([conversation])
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["attention_mask"], expected["attention_mask"])
    assert found["image_grid"].tolist() == [[2, 4]] * count
    assert torch.equal(found["image_grid"] * 2, expected["image_grid_thw"][:, 1:])
    mask = processor.tokenizer.apply_chat_template(
        typed(conversation), chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    kept = [token for token, one in zip(mask["input_ids"], mask["assistant_masks"], strict=True) if one]
    labels = found["labels"][0]
    assert labels[labels != -100].tolist() == kept
    assert torch.equal(labels[labels != -100], found["input_ids"][0][labels != -100])
    assert found["truncated"].tolist() == [0]


def test_a_batch_is_its_rows_padded_on_the_right(encoder):
    alone, batch = [encoder([one]) for one in (ONE, TURNS, TWO)], encoder([ONE, TURNS, TWO])
    assert batch["image_grid"].shape == (6, 2)
    for name, fill in (("input_ids", encoder.pad_id), ("attention_mask", 0), ("labels", -100)):
        for number, one in enumerate(alone):
            row, length = batch[name][number], one[name].shape[1]
            assert torch.equal(row[:length], one[name][0])
            assert (row[length:] == fill).all()
    assert encoder.lengths([ONE, TURNS, TWO]).tolist() == batch["attention_mask"].sum(1).tolist()


def test_a_prompt_ends_where_the_last_answer_begins(encoder):
    for conversation in (ONE, TWO, TURNS):
        whole, prompt = encoder([conversation]), encoder.prompts([conversation])
        length = prompt["input_ids"].shape[1]
        answer = whole["input_ids"][0][length:].tolist()
        assert torch.equal(whole["input_ids"][0][:length], prompt["input_ids"][0])
        assert encoder.decode([answer]) == [conversation[-1]["content"]]
        assert whole["labels"][0][length] == answer[0]
        assert torch.equal(prompt["image_grid"], whole["image_grid"])
        asked = encoder.prompts([conversation[:-1]])  # nobody has answered yet
        assert torch.equal(asked["input_ids"], prompt["input_ids"])


def test_candidates_are_the_tokens_of_answers_in_their_place(encoder):
    answers = ["real", "fake", "a generated image"]
    found = encoder.candidates(ONE, answers)
    for answer, tokens in zip(answers, found, strict=True):
        whole = encoder([[ONE[0], {"role": "assistant", "content": answer}]])
        labels = whole["labels"][0]
        assert [*tokens, encoder.eos_id] == labels[labels != -100].tolist()
    # Where one answer begins another, their ends tell them apart.
    short, long = encoder.candidates(ONE, ["real", "real photo"])
    assert short == [found[0][0], encoder.eos_id]
    assert long[0] == short[0]
    assert long[-1] == encoder.eos_id


def test_long_answers_are_cut_keep_their_end_and_are_counted(directories):
    encoder = encoder_of(directories["qwen2_vl"], max_target_token_length=3)
    whole = encoder_of(directories["qwen2_vl"])
    found, uncut = encoder([TURNS, ONE]), whole([TURNS, ONE])
    assert found["truncated"].tolist() == [1, 0]
    labels, all_labels = (one["labels"][0][one["labels"][0] != -100].tolist() for one in (found, uncut))
    first = all_labels.index(encoder.eos_id)
    assert len(labels) == 3 + 2
    assert labels == [*all_labels[:2], encoder.eos_id, *all_labels[first + 1 :]]
    # Nothing but these tokens is gone.
    ids, all_ids = (one["input_ids"][0][one["attention_mask"][0].bool()].tolist() for one in (found, uncut))
    place = uncut["labels"][0].tolist().index(all_labels[0])
    assert ids == all_ids[: place + 2] + all_ids[place + first :]
    assert encoder.lengths([TURNS]).tolist() == [len(ids)]
    # The answer that just fits is whole.
    fits = encoder_of(directories["qwen2_vl"], max_target_token_length=first + 1)([TURNS])
    assert fits["truncated"].tolist() == [0]
    assert torch.equal(fits["input_ids"], uncut["input_ids"][:1])


def test_it_travels_to_workers(encoder):
    copied = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(copied([TURNS])["input_ids"], encoder([TURNS])["input_ids"])


def asks(content, answer="red"):
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        (
            asks("<image> What is <|image_pad|>?"),
            r"user's message .* holds '<\|image_pad\|>', which is a mark",
        ),
        (asks("<image> What?", "red<|im_end|>blue"), r"assistant's message .* holds '<\|im_end\|>'"),
        (asks("<image> What?", " \n"), r"the answer to '<image> What\?' is empty \(' \\n'\)"),
        (asks("<image> What?", "this: <image>"), "shows an image .*move the tag into the question"),
        (asks("What?"), "about 'What\\?' shows no image: put <image> where"),
        (asks("<image> What?")[:1], "ends with the user .*its last message is the assistant's"),
        (asks("<image> What?")[1:], "the roles of nobody, and asks nothing"),
        ([], "the roles of nobody, and asks nothing"),
        ([SYSTEM, ONE[1]], "the roles system, and asks nothing"),
        ([*ONE, ONE[1]], "the roles user, assistant, and asks nothing"),
    ],
)
def test_conversations_that_cannot_be_learnt_are_refused(encoder, conversation, message):
    with pytest.raises(DataError, match=message):
        encoder([ONE, conversation])


def test_a_prompt_that_would_cut_its_answer_off_is_refused(directories):
    length = int(encoder_of(directories["qwen2_vl"]).lengths([TWO])[0])
    encoder_of(directories["qwen2_vl"], longest=length)([TWO])
    encoder = encoder_of(directories["qwen2_vl"], longest=length - 1)
    with pytest.raises(DataError, match=f"model.net.max_length={length}"):
        encoder([TWO])
    with pytest.raises(DataError, match="there is room for 5"):
        encoder_of(directories["qwen2_vl"], longest=5).prompts([TWO])


def test_answers_that_a_tokenizer_does_not_tell_apart_are_refused(encoder):
    with pytest.raises(ConfigError, match=r"answers 1 and 2 of .* have the same tokens"):
        encoder.candidates(ONE, ["real", "real"])
    with pytest.raises(DataError, match="is empty"):
        encoder.candidates(ONE, ["real", " "])


def with_template(directories, template):
    tokenizer = qwen_vl_models.tokenizer(str(directories["qwen2_vl"]))
    tokenizer.chat_template = template
    return tokenizer, qwen_vl_models.read_config(str(directories["qwen2_vl"])).image_token_id


def test_a_tokenizer_without_a_chat_template_is_refused(directories):
    tokenizer, image_id = with_template(directories, None)
    with pytest.raises(ConfigError, match="has no chat_template"):
        ChatEncoder(tokenizer, image_id, (2, 4))


_ASKS = "{% if add_generation_prompt %}assistant: {% endif %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}" + _ASKS,
            "shows 0 images",
        ),
        ("{{ messages | length }}{% for m in messages %}<|im_end|>{% endfor %}", "rewrites earlier turns"),
        (
            "{% for m in messages %}{{ m.role }}: <|image_pad|>\n{% endfor %}" + _ASKS,
            r"ends no answer with the tokenizer's eos_token '<\|im_end\|>'",
        ),
    ],
    ids=["no images", "other earlier turns", "no ends"],
)
def test_templates_in_which_answers_or_images_cannot_be_told_are_refused(directories, template, message):
    tokenizer, image_id = with_template(directories, template)
    encoder = ChatEncoder(tokenizer, image_id, (2, 4))
    with pytest.raises(ConfigError, match=message):
        encoder([TURNS])


def test_a_length_without_room_for_an_answer_is_refused(directories):
    with pytest.raises(ConfigError, match="max_target_token_length=1 leaves no room"):
        encoder_of(directories["qwen2_vl"], max_target_token_length=1)
