import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.errors import ConfigError
from tapetum.optim.schedules import Horizon, constant, cosine, linear, plateau, step

HORIZON = Horizon(total_steps=50, steps_per_epoch=10)
PEAKS = (1e-3, 2e-5)


def _optimizer(peaks=PEAKS):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    return torch.optim.SGD(groups, lr=0.1)


def _trace(schedule, optimizer, steps):
    """Learning rates [steps + 1][groups] in force at each optimizer step, and after the last."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return [*rates, [group["lr"] for group in optimizer.param_groups]]


def test_cosine_follows_its_closed_form_and_every_group_ends_at_min_lr():
    optimizer = _optimizer()
    rates = _trace(cosine(optimizer, horizon=HORIZON, warmup_epochs=1, min_lr=1e-6), optimizer, 50)
    for group, peak in enumerate(PEAKS):
        for k in range(10):
            assert rates[k][group] == pytest.approx(peak * (k + 1) / 11, rel=1e-12)
        for k in range(10, 51):
            expected = 1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * (k - 10) / 40)) / 2
            assert rates[k][group] == pytest.approx(expected, rel=1e-9)
        assert rates[10][group] == peak
        assert rates[50][group] == pytest.approx(1e-6, rel=1e-12)


def test_cosine_without_warm_up_equals_torch():
    ours, theirs = _optimizer(), _optimizer()
    found = _trace(cosine(ours, horizon=HORIZON, warmup_steps=0, min_lr=1e-6), ours, 50)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=50, eta_min=1e-6)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(_trace(reference, theirs, 50)))


def test_linear_falls_in_equal_steps_to_min_lr():
    optimizer = _optimizer()
    rates = _trace(linear(optimizer, horizon=HORIZON, warmup_steps=5, min_lr=1e-6), optimizer, 50)
    for group, peak in enumerate(PEAKS):
        for k in range(5, 51):
            assert rates[k][group] == pytest.approx(peak + (1e-6 - peak) * (k - 5) / 45, rel=1e-9)


def test_constant_stays_at_the_peak_after_warm_up():
    optimizer = _optimizer()
    rates = _trace(constant(optimizer, horizon=HORIZON, warmup_epochs=0.5), optimizer, 60)
    assert [rate[0] for rate in rates[:5]] == pytest.approx([1e-3 * k / 6 for k in range(1, 6)])
    assert all(rate == list(PEAKS) for rate in rates[5:])


def test_step_multiplies_by_gamma_at_the_end_of_each_period():
    optimizer = _optimizer()
    schedule = step(optimizer, horizon=HORIZON, every_epochs=2, gamma=0.9, warmup_steps=0)
    rates = _trace(schedule, optimizer, 50)
    for k, rate in enumerate(rates):
        assert rate == pytest.approx([peak * 0.9 ** (k // 20) for peak in PEAKS])


@settings(deadline=None)
@given(
    st.sampled_from([cosine, linear]),
    st.integers(1, 200),
    st.integers(0, 200),
    st.floats(1e-8, 1e-3),
)
def test_rates_rise_then_fall_and_stay_between_zero_min_and_peak(schedule, total, warmup, min_lr):
    warmup = min(warmup, total)
    optimizer = _optimizer((1e-3,))
    horizon = Horizon(total_steps=total, steps_per_epoch=1)
    built = schedule(optimizer, horizon=horizon, warmup_steps=warmup, min_lr=min_lr)
    rates = [rate for (rate,) in _trace(built, optimizer, total + 3)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rates[0] > 0
    assert max(rates) <= 1e-3 * (1 + 1e-12)
    assert rates[total:] == pytest.approx([min_lr] * 4)  # and beyond the end


@pytest.mark.parametrize("schedule", [cosine, linear, constant])
def test_a_schedule_resumed_from_its_state_continues_on_the_same_curve(schedule):
    whole = _optimizer()
    expected = _trace(schedule(whole, horizon=HORIZON), whole, 50)

    first = _optimizer()
    running = schedule(first, horizon=HORIZON)
    _trace(running, first, 17)
    buffer = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "scheduler": running.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    second = _optimizer()
    resumed = schedule(second, horizon=HORIZON)
    second.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["scheduler"])
    assert _trace(resumed, second, 33) == expected[17:]


def test_a_schedule_built_on_a_resumed_optimizer_keeps_the_peak():
    first = _optimizer()
    _trace(cosine(first, horizon=HORIZON), first, 40)
    second = _optimizer()
    second.load_state_dict(first.state_dict())
    schedule = cosine(second, horizon=HORIZON)
    assert schedule.base_lrs == list(PEAKS)
    assert second.param_groups[0]["lr"] == pytest.approx(1e-3 / 11)


def test_plateau_falls_when_the_monitored_value_stops_improving():
    optimizer = _optimizer((1e-3,))
    schedule = plateau(optimizer, factor=0.1, patience=1, min_lr=1e-6, mode="max")
    rates = []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6):
        schedule.step(accuracy)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_a_warm_up_longer_than_the_training_is_an_error_that_says_what_to_type():
    message = r"warmup_epochs=2 .* of 20 steps, longer than the training of 15.*scheduler\.warmup_steps=1"
    with pytest.raises(ConfigError, match=message):
        cosine(_optimizer(), horizon=Horizon(15, 10), warmup_epochs=2)
    with pytest.raises(ConfigError, match="must not be negative"):
        linear(_optimizer(), horizon=HORIZON, warmup_steps=-1)


def test_one_epoch_of_training_that_is_all_warm_up_is_allowed():
    optimizer = _optimizer()
    rates = _trace(cosine(optimizer, horizon=Horizon(10, 10), warmup_epochs=1), optimizer, 10)
    assert rates[9][0] == pytest.approx(1e-3 * 10 / 11)
    assert rates[10] == pytest.approx([1e-6, 1e-6])


@pytest.mark.parametrize("schedule", [cosine, linear])
def test_a_floor_above_the_rate_of_a_group_is_an_error_that_names_the_group(schedule):
    optimizer = _optimizer((1e-3, 1e-7))
    optimizer.param_groups[1]["name"] = "backbone"
    with pytest.raises(ConfigError, match=r"min_lr=1e-06 is above the learning rate 1e-07 .*group backbone"):
        schedule(optimizer, horizon=HORIZON)


def test_a_training_of_unknown_length_has_no_schedule():
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs"):
        Horizon(total_steps=-1, steps_per_epoch=10)
