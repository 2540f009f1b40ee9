import math

import pytest
import torch
from tapetum.modules.buffers import NonFiniteLossError, StepBuffer


def add(buffer, loss, logits, labels, rows, step=0):
    buffer.add(
        torch.tensor(loss),
        torch.tensor(rows),
        step,
        logits=torch.tensor(logits),
        labels=torch.tensor(labels),
    )


def test_sums_weigh_batches_by_their_images_across_flushes():
    buffer = StepBuffer()
    add(buffer, 1.0, [2.0, -1.0, 0.5], [1, 0, 0], [0, 1, 2])
    add(buffer, 4.0, [-2.0], [1], [3])
    assert buffer.flush() == (2.5, 4)
    add(buffer, 0.0, [-2.0, 0.0], [0, 0], [4, 5])
    assert buffer.flush() == (0.0, 2)
    assert buffer.flush() is None
    assert buffer.epoch() == (pytest.approx((3 * 1.0 + 4.0) / 6), pytest.approx(4 / 6))
    assert buffer.seen == 6


def test_a_new_epoch_begins_at_nothing():
    buffer = StepBuffer()
    add(buffer, 1.0, [2.0], [1], [0])
    buffer.flush()
    buffer.start_epoch()
    assert all(math.isnan(value) for value in buffer.epoch())
    assert buffer.flush() is None
    assert buffer.seen == 1


def test_an_interrupted_epoch_is_taken_up_by_another_process():
    first, second = StepBuffer(), StepBuffer()
    add(first, 1.0, [2.0, -1.0], [1, 1], [0, 1])
    first.flush()
    second.load_state_dict(first.state_dict())
    add(second, 4.0, [2.0], [1], [2])
    second.flush()
    assert second.epoch() == (2.0, pytest.approx(2 / 3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_loss_that_is_not_finite_is_named_with_its_rows(value):
    buffer = StepBuffer()
    add(buffer, 1.0, [2.0], [1], [7], step=40)
    add(buffer, value, [2.0, 1.0], [1, 0], [9, 8], step=40)
    add(buffer, math.nan, [2.0], [1], [6], step=41)
    with pytest.raises(NonFiniteLossError, match=f"the loss became {value} at step 40") as caught:
        buffer.flush()
    assert caught.value.rows == [9, 8]
