"""The contest winner's rule for test-time augmentation under a limit."""

import time

import pytest

from inference.time_budget import TimeBudget, process_start_s


class Clock:
    """A clock that only `play` moves."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def play(limit_s: float, num_batches: int, tta_s: float, plain_s: float, start_s: float = 0.0):
    """Runs all batches at fixed costs; returns the budget, each batch's plan and the end time."""
    clock = Clock()
    clock.now_s = start_s
    budget = TimeBudget(limit_s, num_batches, 0.0, clock)
    plans = []
    for k in range(num_batches):
        plan = budget.begin(k)
        plans.append(plan)
        clock.now_s += {"tta": tta_s, "none": plain_s, "both": tta_s + plain_s}[plan]
        if plan == "both":
            budget.compared(plain_s, tta_s)
        budget.end(k)
    return budget, plans, clock.now_s


def test_published_example_with_time_to_spare_augments_to_the_end():
    # 20 batches of 3 s, then 3 + 1 s: past = 70 s with 6 s for loading;
    # n* = (380 - 70 - 1 * 100 + 21 * 3) / (3 - 1) = 136.5 >= 100
    budget, plans, _ = play(380, 100, 3, 1, start_s=6)
    assert budget.augmented_until == 136.5
    assert set(plans[21:]) == {"tta"}


def test_published_example_short_of_time_stops_at_batch_56():
    # past = 20 * 6 + 7 + 3 = 130 s; n* = (380 - 130 - 1 * 100 + 21 * 6) / (6 - 1) = 55.2
    budget, plans, end_s = play(380, 100, 6, 1, start_s=3)
    assert budget.augmented_until == pytest.approx(55.2)
    assert plans[20] == "both"
    assert set(plans[21:56]) == {"tta"} and set(plans[56:]) == {"none"}
    assert 380 - 5 < end_s < 380 + 5  # within one batch's difference; the spare 20 s cover it


@pytest.mark.parametrize("num_batches", range(1, 12))
def test_any_number_of_batches_is_played_through(num_batches):
    _, plans, _ = play(1000, num_batches, 2, 1)
    assert len(plans) == num_batches
    assert plans.count("both") == (num_batches > 1)
    assert "none" not in plans


def test_equal_costs_augment_everything():
    budget, plans, _ = play(30, 10, 1, 1)
    assert budget.augmented_until == float("inf")
    assert "none" not in plans


def test_nothing_is_augmented_after_the_limit():
    _, plans, _ = play(5, 40, 3, 1)
    assert plans[:2] == ["tta", "tta"]
    assert set(plans[2:]) == {"none"}


def test_a_negative_rest_stops_augmenting():
    # past = 4 * 2 + 3 = 11; n* = (20 - 11 - 1 * 20 + 5 * 2) / 1 = -1
    budget, plans, _ = play(20, 20, 2, 1)
    assert budget.augmented_until == -1
    assert set(plans[5:]) == {"none"}


def test_the_process_started_before_now_and_not_long_ago():
    age_s = time.monotonic() - process_start_s()
    assert 0 <= age_s < 24 * 3600
