"""An embedder learns what it is asked to, and says so when it stops saying anything."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, NormalizedSoftmaxLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from tapetum.errors import ConfigError, TrainingError
from tapetum.images.geometry import InputSpec
from tapetum.indexes.roles import roles
from tapetum.modules.retrieval import RetrievalModule
from torch import nn

from modules.retrieval_parts import data_for, embedder, index_of, network, trainer_for


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return index_of(tmp_path_factory.mktemp("infrared") / "data")


def fitted(index, tmp_path, module, **arguments):
    data = data_for(index, module, tmp_path / "cache")
    trainer = trainer_for(tmp_path, **arguments)
    trainer.fit(module, datamodule=data)
    return trainer, data


def embedded(module, data, rows):
    module.eval()
    with torch.no_grad():
        found = [(batch["index"], module.outputs(batch)) for batch in data.ordered(rows)]
    return torch.cat([vectors for _, vectors in found])


def test_validation_searches_the_training_gallery_for_the_validation_queries(index, tmp_path):
    module = embedder(index)
    trainer, data = fitted(index, tmp_path, module)
    found = roles(index, "val")
    assert not found.own
    queries, gallery = embedded(module, data, found.queries), embedded(module, data, found.gallery)
    labels = torch.tensor(index.column("label"))
    nearest = labels[found.gallery][(queries @ gallery.T).argmax(dim=1)]
    expected = (nearest == labels[found.queries]).double().mean()
    assert float(trainer.callback_metrics["val/recall_at_1"]) == pytest.approx(float(expected), abs=1e-6)
    assert {"val/map_at_r", "val/knn_balanced_accuracy", "val/embedding/spread"} <= set(
        trainer.callback_metrics
    )


def test_a_loss_gets_the_classes_and_the_dimension_and_its_weights_are_trained(index, tmp_path):
    module = embedder(index, loss=partial(ArcFaceLoss, margin=20.0))
    weights = module.mined.loss.W
    assert weights.shape == (8, 3)
    before = weights.detach().clone()
    fitted(index, tmp_path, module)
    assert not torch.equal(weights, before)


def test_a_loss_that_hands_its_arguments_on_gets_them_too(index):
    assert embedder(index, loss=partial(CosFaceLoss)).mined.loss.W.shape == (8, 3)


def test_labels_without_training_images_take_no_place_in_a_loss(index):
    module = embedder(index, class_counts=[5, 0, 4, 3], loss=partial(NormalizedSoftmaxLoss))
    assert module.mined.loss.W.shape == (8, 3)
    assert module._place.tolist() == [0, -1, 1, 2]


def test_the_warm_start_trains_alone_and_then_beside_the_loss(index):
    module = embedder(
        index,
        miner=TripletMarginMiner(type_of_triplets="all"),
        warm_start={"loss": partial(NormalizedSoftmaxLoss), "epochs": 1, "weight": 0.5},
    )
    vectors = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    trainer = module.trainer = trainer_for(None)
    softmax = module.warm.loss(vectors, labels)
    assert torch.equal(module.compute_loss(vectors, labels), softmax)
    trainer.fit_loop.epoch_progress.current.completed = 1
    assert module.current_epoch == 1
    triplets = TripletMarginLoss()(
        vectors, labels, TripletMarginMiner(type_of_triplets="all")(vectors, labels)
    )
    assert torch.allclose(module.compute_loss(vectors, labels), triplets + 0.5 * softmax)


class Brightness(nn.Module):
    """An angle that the mean of the image decides, and a parameter that does nothing."""

    dimension = 2

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(16, 16), resize="squash", channels=1)
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images):
        angle = self.factor * images.float().mean(dim=(1, 2, 3)) / 255
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_batches_without_a_triplet_to_learn_from_are_counted(index, tmp_path):
    module = embedder(index, loss=partial(TripletMarginLoss, margin=-2.5))
    trainer, _ = fitted(index, tmp_path, module)
    batches = trainer.num_training_batches
    assert batches > 1
    assert float(trainer.callback_metrics["train/zero_triplet_batches"]) == batches


def test_the_mean_number_of_mined_triplets_is_told(index, tmp_path):
    module = embedder(index, miner=BatchHardMiner())
    trainer, _ = fitted(index, tmp_path, module)
    # 8 images of 3 classes, 2 each: every anchor has its hardest positive and its hardest negative
    assert float(trainer.callback_metrics["train/mined_per_batch"]) == pytest.approx(6, abs=2)


def test_collapsed_embeddings_are_told_once_or_stop_the_run(index, tmp_path, caplog):
    module = embedder(index, Brightness(0.001))
    fitted(index, tmp_path, module, max_epochs=2)
    said = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(said) == 1
    assert "model.warm_start.epochs=2" in said[0]
    assert module.collapsed_in == 0
    with pytest.raises(TrainingError, match="collapsed"):
        fitted(index, tmp_path, embedder(index, Brightness(0.001), on_collapse="stop"))


def test_embeddings_that_differ_raise_no_alarm(index, tmp_path):
    module = embedder(index, Brightness(6.0))
    fitted(index, tmp_path, module)
    assert module.collapsed_in is None


def test_the_memory_of_past_batches_survives_a_resume(index, tmp_path):
    loss = partial(TripletMarginLoss, margin=0.2)
    one = embedder(index, loss=loss, memory=12)
    fitted(index, tmp_path / "one", one, max_epochs=2)
    first = embedder(index, loss=loss, memory=12)
    trainer, _ = fitted(index, tmp_path / "two", first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = embedder(index, loss=loss, memory=12)
    resumed = trainer_for(tmp_path / "two", max_epochs=2)
    data = data_for(index, again, tmp_path / "cache")
    resumed.fit(again, datamodule=data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in one.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": 4}, r"model\.memory=4 is less than a batch of"),
        ({"memory": 64, "loss": partial(ArcFaceLoss)}, "can't be used with ArcFaceLoss"),
        ({"miner": nn.Identity()}, r"model\.miner is Identity, which picks no pairs or triplets"),
        ({"loss": 3.0}, r"model\.loss is float, which is no loss of embeddings and labels"),
        ({"warm_start": {"epochs": 1}}, r"model\.warm_start\.loss is missing"),
        ({"warm_start": {"loss": partial(NormalizedSoftmaxLoss), "epochs": -1}}, r"epochs=-1 must be"),
        ({"decision": {"rule": "nearst"}}, r"model\.decision\.rule=nearst: nearest, knn, centroid"),
        ({"target": {"accuracy": 95}}, r"model\.target\.accuracy=95 must be a share"),
        ({"on_collapse": "panic"}, r"model\.on_collapse=panic: warn or stop"),
    ],
)
def test_what_can_not_be_trained_is_said(index, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        fitted(index, tmp_path, embedder(index, **arguments))


def test_a_module_that_only_embeds_has_no_loss():
    module = RetrievalModule(network(), loss=partial(TripletMarginLoss))
    with pytest.raises(ConfigError, match="can only embed"):
        module.compute_loss(torch.eye(2), torch.tensor([0, 1]))
