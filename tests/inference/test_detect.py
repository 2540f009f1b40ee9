import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tapetum.inference.detect import detect
from tapetum.inference.predictions import DETECTION_SCHEMA, detection_predictions, write_predictions
from tapetum.metrics.thresholds import Thresholds

from datamodules.detection_data import build_index
from layouts import make_folder

CPU = torch.device("cpu")


class Mean(torch.nn.Module):
    """The mean of an image as its logit, so that every prediction names its image."""

    def forward(self, images):
        if isinstance(images, list):
            return torch.stack([image.float().mean() for image in images])
        return images.float().mean(dim=(1, 2, 3))


def images(*values: int, size: int = 4) -> torch.Tensor:
    return torch.stack([torch.full((3, size, size), value, dtype=torch.uint8) for value in values])


def test_logits_stay_with_their_rows_and_empty_batches_are_passed_over():
    batches = [
        {"images": images(5, 9), "index": torch.tensor([3, 1])},
        {"images": [], "index": torch.tensor([], dtype=torch.int64)},
        {"images": [images(7)[0], images(8, size=6)[0]], "index": torch.tensor([2, 0])},
    ]
    seen = []
    found = detect(
        Mean().train(), batches, device=CPU, progress=lambda done, total: seen.append((done, total))
    )
    assert found.rows.tolist() == [3, 1, 2, 0]
    assert found.logits.tolist() == [5, 9, 7, 8]
    assert found.logits.dtype == np.float32
    assert found.images_per_second == pytest.approx(4 / found.seconds)
    assert seen[-1] == (3, 3)


def test_nothing_to_detect_is_an_empty_result():
    found = detect(Mean(), [], device=CPU)
    assert (len(found.rows), len(found.logits)) == (0, 0)


def test_mixed_precision_names_autocast_and_others_do_not():
    class Dtype(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(48, 1)

        def forward(self, batch):
            out = self.layer(batch.float().flatten(1))
            self.seen = out.dtype
            return out.squeeze(1)

    for precision, dtype in (("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)):
        module = Dtype()
        batch = {"images": images(1), "index": torch.tensor([0])}
        found = detect(module, [batch], device=CPU, precision=precision)
        assert module.seen == dtype
        assert found.logits.dtype == np.float32


def test_predictions_have_every_row_once_with_what_the_index_knows(tmp_path):
    index = build_index(make_folder(tmp_path / "data", splits={"train": 4, "test": 2}, size=16))
    rows = index.rows("test")[[2, 0, 1, 3, 2]]  # a rank repeated one
    logits = np.array([4.0, -3.0, 0.0, -0.5, 4.0], np.float32)
    table = detection_predictions(index, rows, logits, Thresholds(0.5, high=0.9, low=0.1))
    assert table.schema.equals(DETECTION_SCHEMA)
    assert table["index"].to_pylist() == index.rows("test").tolist()
    assert table["logit"].to_pylist() == [-3.0, 0.0, 4.0, -0.5]
    assert table["verdict"].to_pylist() == ["real", "generated", "generated", "real"]
    assert table["band"].to_pylist() == ["high", "uncertain", "high", "uncertain"]
    expected = 1 / (1 + np.exp([3.0, 0.0, -4.0, 0.5]))
    np.testing.assert_allclose(table["probability"].to_numpy(), expected, rtol=1e-6)
    for row in table.to_pylist():
        _, path = index.location(row["index"])
        assert row["path"] == path
        assert row["split"] == "test"
        assert row["label"] == ("ai_generated" in path)
        assert row["generator"] == ("ai_generated" if row["label"] else None)
    write_predictions(table, tmp_path / "predictions" / "test.parquet")
    assert pq.read_table(tmp_path / "predictions" / "test.parquet").equals(table)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["test.parquet"]
