"""The captioning module: the loss a token, however batches are cut; figures that are the split's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from tapetum.backbones.generation import Generation
from tapetum.errors import ConfigError
from tapetum.metrics.captions import caption_metrics
from tapetum.modules.captioning import CaptioningModule

from modules.captioning_parts import captioner, data_for, index_of, network
from modules.retrieval_parts import trainer_for


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return index_of(tmp_path_factory.mktemp("captions") / "root")


def fitted(index, tmp_path, module, data=None, **arguments):
    trainer = trainer_for(tmp_path, **arguments)
    trainer.fit(module, data_for(index, module, tmp_path, **(data or {})))
    return trainer


def nll_by_hand(net, image, text):
    """(sum, tokens) of one caption behind its image: full logits, no padding, a loop over the words."""
    encode = net.encode_fn()
    ids = [*encode.tokenizer(text, add_special_tokens=False)["input_ids"], encode.eos_id]
    model = net.decoder.plain
    with torch.no_grad():
        words = model.get_input_embeddings()(torch.tensor([ids]))
        logits = model(inputs_embeds=torch.cat([net(image[None]), words], dim=1)).logits[0]
    places = logits.shape[0] - len(ids) - 1
    losses = [F.cross_entropy(logits[places + n], torch.tensor(word)) for n, word in enumerate(ids)]
    return float(torch.stack(losses).sum()), len(ids)


def split_by_hand(index, module, tmp_path, split):
    data = data_for(index, module, tmp_path)
    images = {
        int(row): image
        for batch in data.eval_dataloader(split)
        for row, image in zip(batch["index"], batch["images"], strict=True)
    }
    found = [
        nll_by_hand(module.net, image, text)
        for row, image in images.items()
        for text in index.table.column("captions")[row].as_py()
    ]
    return sum(total for total, _ in found) / sum(count for _, count in found)


def test_validation_loss_is_the_mean_over_all_tokens_of_all_captions(index, tmp_path):
    module = captioner(optimizer=None).eval()
    trainer = trainer_for(tmp_path)
    trainer.validate(module, data_for(index, module, tmp_path), verbose=False)
    figures = trainer.callback_metrics
    expected = split_by_hand(index, module, tmp_path, "val")
    assert float(figures["val/loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(figures["val/perplexity"]) == pytest.approx(math.exp(expected), rel=1e-4)


def test_captions_are_scored_against_their_own_references(index, tmp_path):
    module = captioner(optimizer=None).eval()
    trainer = trainer_for(tmp_path)
    data = data_for(index, module, tmp_path)
    trainer.validate(module, data, verbose=False)
    rows = index.rows("val")
    images = torch.cat([batch["images"] for batch in data.val_dataloader()])
    with torch.no_grad():
        texts = module.net.generate(module.net(images), module.generation).texts
    references = [index.table.column("captions")[int(row)].as_py() for row in rows]
    for name, value in caption_metrics(texts, references).items():
        assert float(trainer.callback_metrics[f"val/{name}"]) == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({"generate_every_n_epochs": 0}, ()),
        ({"generate_every_n_epochs": 2}, (1, 3)),
        ({"generate_every_n_epochs": 1}, (0, 1, 2, 3)),
    ],
)
def test_captions_are_written_as_often_as_asked(index, tmp_path, arguments, epochs):
    written = []

    class Watched(CaptioningModule):
        def on_validation_epoch_end(self):
            written.append((self.current_epoch, sorted(self._written)))
            super().on_validation_epoch_end()

    module = Watched(network(), generation={"max_new_tokens": 4}, generate_images=3, **arguments)
    module._optimizer = captioner()._optimizer
    trainer = fitted(index, tmp_path, module, max_epochs=4)
    first = index.rows("val")[:3].tolist()
    assert [(epoch, rows) for epoch, rows in written if rows] == [(epoch, first) for epoch in epochs]
    assert ("val/cider" in trainer.callback_metrics) is bool(epochs)
    assert "val/loss" in trainer.callback_metrics


def weights_after(index, tmp_path, *, batch, accumulate):
    """One epoch of plain gradient descent in order of length, all captions."""
    module = captioner()
    data = {"batch_size": batch, "captions": "all", "length_buckets": False}
    fitted(index, tmp_path, module, data, accumulate_grad_batches=accumulate, limit_val_batches=0)
    return torch.cat([value.detach().flatten() for value in module.net.parameters()])


def test_accumulated_batches_are_one_large_batch_although_their_captions_differ_in_length(index, tmp_path):
    whole = weights_after(index, tmp_path, batch=12, accumulate=1)
    for batch, accumulate in ((4, 3), (3, 4), (2, 6)):
        parts = weights_after(index, tmp_path, batch=batch, accumulate=accumulate)
        assert (parts - whole).abs().max().item() < 1e-6
    # What Lightning alone would make of it is not that: the mean of the batches' means.
    assert (whole - weights_after(index, tmp_path, batch=4, accumulate=1)).abs().max().item() > 1e-4


def test_train_loss_is_the_mean_over_tokens_not_over_batches(index, tmp_path):
    from functools import partial

    still = captioner(optimizer=partial(torch.optim.SGD, lr=0.0))
    expected = split_by_hand(index, still, tmp_path, "train")
    trainer = fitted(index, tmp_path, still, {"captions": "all", "batch_size": 3})
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)


def test_long_captions_are_cut_and_counted(index, tmp_path):
    module = captioner(network(max_caption_length=6), generation={"max_new_tokens": 6})
    trainer = fitted(index, tmp_path, module, {"captions": "all"})
    encode = captioner().net.encode_fn()
    texts = [text for row in index.rows("train") for text in index.table.column("captions")[int(row)].as_py()]
    assert float(trainer.callback_metrics["train/truncated_captions"]) == (encode.lengths(texts) > 6).sum()


def test_a_captioner_learns_what_it_is_shown(index, tmp_path):
    from functools import partial

    module = captioner(optimizer=partial(torch.optim.AdamW, lr=3e-3), generate_every_n_epochs=0)
    trainer = fitted(index, tmp_path, module, {"captions": "all"}, max_epochs=30)
    assert float(trainer.callback_metrics["train/loss"]) < 1.5 < 4 < math.log(259)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generate_every_n_epochs": -1}, "generate_every_n_epochs=-1: 0 for never"),
        ({"generate_images": 0}, "generate_images=0: 1 or more, or null"),
        (
            {"generation": {"strategy": "magic"}},
            "strategy=magic is out of range: one of greedy, beam, nucleus",
        ),
    ],
)
def test_settings_that_can_not_be_meant_are_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        captioner(**arguments)


def test_generation_is_part_of_the_module():
    assert captioner(generation={"strategy": "beam", "beams": 3}).generation == Generation(
        strategy="beam", beams=3
    )
