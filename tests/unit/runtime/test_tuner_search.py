"""The tuner's search on devices made of given numbers: no clock, no engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.errors import CannotTune
from runtime.tuning import tuner
from runtime.tuning.record import Candidate, Condition, Objective, Spinning, Tuning
from runtime.tuning.space import Space
from tests.support.simulated_device import Cost, SimulatedDevice

FLOAT = Candidate(variant="float32")
INT8 = Candidate(variant="int8")
LITE = Candidate(variant="int8-lite", engine="litert")
SAME = Cost()


def search(
    device: SimulatedDevice,
    *variants: Candidate,
    objective: Objective | None = None,
    seconds: float = 30.0,
    cores: int = 2,
) -> Tuning:
    space = Space(variants or (FLOAT,), cores)
    return tuner.search(space, device, objective or Objective(), seconds=seconds)


def costs(*rules: tuple[Callable[[Candidate], bool], Cost]) -> Callable[[Candidate], Cost]:
    """The first rule that fits; what fits none costs what all do."""
    return lambda candidate: next((cost for fits, cost in rules if fits(candidate)), SAME)


def one_thread(candidate: Candidate) -> bool:
    return candidate.threads == 1


def spins(candidate: Candidate) -> bool:
    return candidate.spinning == "on"


def sleeps(candidate: Candidate) -> bool:
    return candidate.spinning == "off" and candidate.threads != 1


def row_of(tuning: Tuning, candidate: Candidate) -> str:
    return next(row.verdict for row in tuning.rows if row.candidate == candidate)


def test_the_default_wins_when_all_are_the_same() -> None:
    assert search(SimulatedDevice(lambda _: SAME)).chosen == FLOAT


@pytest.mark.parametrize("seed", range(30))
def test_noise_alone_makes_nobody_better_than_the_default(seed: int) -> None:
    assert search(SimulatedDevice(lambda _: SAME, noise=0.05, seed=seed)).chosen == FLOAT


@pytest.mark.parametrize("seed", range(10))
def test_a_real_gain_is_found_through_noise(seed: int) -> None:
    device = SimulatedDevice(costs((one_thread, SAME.but(idle_s=0.007, busy_s=0.014))), noise=0.05, seed=seed)
    assert search(device).chosen.threads == 1


@pytest.mark.parametrize("drift", [0.02, -0.01])
def test_a_device_that_heats_up_or_cools_down_does_not_fool_it(drift: float) -> None:
    assert search(SimulatedDevice(lambda _: SAME, noise=0.01, drift=drift)).chosen == FLOAT


def test_a_gain_of_one_percent_is_none() -> None:
    assert search(SimulatedDevice(costs((one_thread, SAME.but(idle_s=0.0099))))).chosen == FLOAT


def test_another_variant_is_chosen_when_it_is_faster() -> None:
    device = SimulatedDevice(costs((lambda each: each.variant == "int8", SAME.but(idle_s=0.004, busy_s=0.008, cpu_s=0.004))))
    assert search(device, FLOAT, INT8).chosen.variant == "int8"


def test_a_wrong_answer_is_never_chosen_however_fast() -> None:
    wrong = SAME.but(idle_s=0.001, busy_s=0.001, cpu_s=0.001, failure="wrong: 3 dB")
    tuning = search(SimulatedDevice(costs((lambda each: each.variant == "int8", wrong))), FLOAT, INT8)
    assert tuning.chosen == FLOAT
    assert row_of(tuning, INT8) == "wrong: 3 dB"


def test_what_spins_away_the_processor_is_over_the_budget() -> None:
    device = SimulatedDevice(costs((spins, SAME.but(idle_s=0.004, busy_s=0.008, cpu_s=0.060))))
    tuning = search(device)
    assert tuning.chosen == FLOAT
    assert "over the CPU budget" in row_of(tuning, Candidate(variant="float32", spinning="on"))


def test_a_little_over_the_budget_is_over_the_budget() -> None:
    device = SimulatedDevice(costs((one_thread, SAME.but(idle_s=0.004, busy_s=0.008, cpu_s=0.021))))
    assert search(device).chosen == FLOAT
    device = SimulatedDevice(costs((one_thread, SAME.but(idle_s=0.004, busy_s=0.008, cpu_s=0.019))))
    assert search(device).chosen.threads == 1


def test_where_the_default_is_slower_than_the_engines_own_the_best_is_chosen_even_within_the_noise() -> None:
    spinning, alone = SAME.but(idle_s=0.0085, cpu_s=0.060), SAME.but(idle_s=0.0092)
    outrun, not_outrun = costs((spins, spinning), (one_thread, alone)), costs((one_thread, alone))
    chosen = {
        name: sum(search(SimulatedDevice(cost_of, noise=0.1, seed=seed), seconds=10).chosen.threads == 1 for seed in range(20))
        for name, cost_of in (("outrun", outrun), ("not outrun", not_outrun))
    }
    assert chosen["outrun"] >= chosen["not outrun"] + 3


def test_what_another_provider_runs_faster_is_chosen() -> None:
    on_it = SAME.but(idle_s=0.004, busy_s=0.008)
    device = SimulatedDevice(costs((lambda each: each.provider == "openvino", on_it)))
    space = Space((FLOAT,), 2, ("openvino",))
    chosen = tuner.search(space, device, Objective(), seconds=30).chosen
    assert (chosen.provider, chosen.level) == ("openvino", "all")
    assert chosen.describe() == "float32 · on openvino · engine's threads"


def test_a_provider_that_answers_otherwise_is_out_however_fast() -> None:
    wrong = SAME.but(idle_s=0.001, busy_s=0.001, failure="wrong: 12 dB from what the variant answers otherwise")
    device = SimulatedDevice(costs((lambda each: each.provider == "cuda", wrong)))
    tuning = tuner.search(Space((FLOAT,), 2, ("cuda",)), device, Objective(), seconds=30)
    assert tuning.chosen == FLOAT
    assert "wrong" in row_of(tuning, Candidate(variant="float32", provider="cuda"))


def test_a_lite_variant_is_not_judged_by_the_one_thread_that_it_takes_by_itself() -> None:
    def cost(candidate: Candidate) -> Cost:
        if candidate.engine != "litert":
            return SAME
        share = 1 if candidate.threads is None else candidate.threads
        return SAME.but(idle_s=0.032 / share, busy_s=0.064 / share, cpu_s=0.005)

    chosen = search(SimulatedDevice(cost), FLOAT, INT8, LITE, cores=8).chosen
    assert (chosen.variant, chosen.threads) == (LITE.variant, 8)


def test_a_lite_variant_has_no_providers() -> None:
    assert Space((LITE,), 2, ("openvino",)).elsewhere(LITE) == []


def test_with_a_larger_budget_it_may_spin() -> None:
    device = SimulatedDevice(costs((spins, SAME.but(idle_s=0.004, busy_s=0.008, cpu_s=0.060))))
    assert search(device, objective=Objective(cpu_budget=10)).chosen.spinning == "on"


def test_the_declared_condition_decides_and_not_the_other_one() -> None:
    device = SimulatedDevice(costs((one_thread, SAME.but(idle_s=0.009, busy_s=0.030))))
    assert search(device).chosen.threads == 1
    assert search(device, objective=Objective(condition="busy")).chosen == FLOAT


def test_of_two_as_good_the_one_that_bears_a_neighbour_is_chosen() -> None:
    sleeping = SAME.but(idle_s=0.0060, busy_s=0.020)
    device = SimulatedDevice(costs((sleeps, sleeping), (one_thread, SAME.but(idle_s=0.0061, busy_s=0.008))))
    assert search(device).chosen.threads == 1


def test_beside_a_neighbour_another_may_be_the_best() -> None:
    cost_of = costs(
        (sleeps, SAME.but(idle_s=0.005, busy_s=0.019)),
        (one_thread, SAME.but(idle_s=0.0105, busy_s=0.009)),
    )
    assert search(SimulatedDevice(cost_of)).chosen.spinning == "off"
    assert search(SimulatedDevice(cost_of), objective=Objective(condition="busy")).chosen.threads == 1


def test_for_the_least_cpu_time_nothing_slower_is_taken() -> None:
    device = SimulatedDevice(
        costs(
            (lambda each: each.level == "basic", SAME.but(idle_s=0.020, cpu_s=0.001)),
            (one_thread, SAME.but(cpu_s=0.007)),
        )
    )
    tuning = search(device, objective=Objective(goal="cpu", cpu_budget=20))
    assert (tuning.chosen.threads, tuning.chosen.level) == (1, "all")


def test_for_the_least_memory_the_smallest_that_is_not_slower_is_taken() -> None:
    device = SimulatedDevice(costs((lambda each: each.variant == "int8", SAME.but(memory_bytes=3_000_000))))
    assert search(device, FLOAT, INT8, objective=Objective(goal="memory")).chosen.variant == "int8"


def test_what_needs_more_memory_than_allowed_is_out() -> None:
    greedy = SAME.but(idle_s=0.001, busy_s=0.001, cpu_s=0.001, memory_bytes=900_000_000)
    device = SimulatedDevice(costs((lambda each: each.variant == "int8", greedy)))
    tuning = search(device, FLOAT, INT8, objective=Objective(max_memory_bytes=100_000_000))
    assert tuning.chosen == FLOAT
    assert "memory limit" in row_of(tuning, INT8)


def test_a_candidate_that_dies_under_way_is_out_and_the_others_go_on() -> None:
    device = SimulatedDevice(
        costs(
            (sleeps, SAME.but(idle_s=0.002, busy_s=0.002, dies_after=5)),
            (one_thread, SAME.but(idle_s=0.006, busy_s=0.012)),
        )
    )
    tuning = search(device)
    assert tuning.chosen.threads == 1
    assert row_of(tuning, Candidate(variant="float32", spinning="off")) == "failed while it was measured"


def test_the_next_variant_is_the_default_where_the_first_does_not_work() -> None:
    device = SimulatedDevice(costs((lambda each: each.variant == "float32", SAME.but(failure="no such engine"))))
    assert search(device, FLOAT, INT8).chosen == INT8


def test_without_any_variant_that_works_nothing_can_be_tuned() -> None:
    with pytest.raises(CannotTune, match="no such engine"):
        search(SimulatedDevice(lambda _: SAME.but(failure="no such engine")))


def test_a_default_that_dies_ends_the_tuning() -> None:
    with pytest.raises(CannotTune, match="while it was measured"):
        search(SimulatedDevice(costs((lambda each: each == FLOAT, SAME.but(dies_after=3)))))


def test_without_time_the_default_stays_and_the_rest_was_not_tried() -> None:
    tuning = search(SimulatedDevice(lambda _: SAME.but(idle_s=0.5)), FLOAT, INT8, seconds=1.0)
    assert tuning.chosen == FLOAT
    assert "not tried" in row_of(tuning, INT8)


@pytest.mark.parametrize("seconds", [5.0, 20.0, 60.0])
def test_the_time_is_kept(seconds: float) -> None:
    device = SimulatedDevice(lambda each: SAME.but(idle_s=0.008 if one_thread(each) else 0.01), noise=0.02)
    assert search(device, FLOAT, INT8, LITE, seconds=seconds, cores=8).seconds <= seconds * 1.1 + 1


def test_most_of_the_measuring_goes_to_the_close_race() -> None:
    def cost(candidate: Candidate) -> Cost:
        close = one_thread(candidate) and candidate.level == "all"
        return SAME.but(idle_s=0.0085, busy_s=0.017) if close else SAME.but(idle_s=0.0130) if candidate != FLOAT else SAME

    device = SimulatedDevice(cost, noise=0.03)
    tuning = search(device, seconds=60)
    spent = [each for each, _ in device.bursts]
    assert spent.count(tuning.chosen) + spent.count(FLOAT) > 0.6 * len(spent)


def test_only_a_few_candidates_hold_memory_at_once_and_none_at_the_end() -> None:
    device = SimulatedDevice(lambda _: SAME, noise=0.02)
    search(device, FLOAT, INT8, LITE, seconds=120, cores=16)
    assert device.most_open <= tuner.WIDTH + 3  # both defaults, and the one that enters
    assert device.open == []


def test_batches_are_measured_where_requests_can_be_merged() -> None:
    assert search(SimulatedDevice(lambda _: SAME, takes_batches=True)).batch_gains == {2: 1.5, 4: 1.5, 8: 1.5, 16: 1.5}
    assert search(SimulatedDevice(lambda _: SAME)).batch_gains == {}


def test_only_what_takes_batches_is_asked_whether_it_may_be_padded() -> None:
    assert search(SimulatedDevice(lambda _: SAME, takes_batches=True)).pads
    assert not search(SimulatedDevice(lambda _: SAME)).pads


def test_a_single_core_has_no_threads_to_try() -> None:
    assert Space((FLOAT,), 1).threadings(FLOAT) == []


def test_threads_go_up_in_powers_of_two_to_the_number_of_cores() -> None:
    tried = {each.threads for each in Space((FLOAT,), 6).threadings(FLOAT)}
    assert tried == {1, 2, 4, None}


def test_a_lite_variant_has_no_spinning_and_no_levels() -> None:
    space = Space((LITE,), 4)
    assert {each.spinning for each in space.threadings(LITE)} == {LITE.spinning}
    assert space.levels(LITE) == []


@pytest.mark.parametrize(("condition", "spinning"), [("idle", "500 µs"), ("busy", "10 µs")])
def test_threads_wait_as_long_as_suits_the_condition(condition: Condition, spinning: Spinning) -> None:
    device = SimulatedDevice(
        costs(
            (lambda each: each.spinning == "500 µs", SAME.but(idle_s=0.009, busy_s=0.030)),
            (lambda each: each.spinning == "10 µs", SAME.but(idle_s=0.011, busy_s=0.015)),
        )
    )
    assert search(device, objective=Objective(condition=condition)).chosen.spinning == spinning


def test_where_no_other_thread_waits_there_is_no_spinning_to_try() -> None:
    alone = Candidate(variant="float32", threads=1)
    assert Space((FLOAT,), 2).spins(alone) == Space((FLOAT,), 1).spins(FLOAT) == Space((LITE,), 2).spins(LITE) == []


def test_the_noise_of_a_ratio_falls_with_the_rounds() -> None:
    few = tuner.ratio_of([(0.9, 1.0), (1.0, 1.0), (1.1, 1.0)])
    many = tuner.ratio_of([(0.9, 1.0), (1.0, 1.0), (1.1, 1.0)] * 16)
    assert few is not None
    assert many is not None
    assert few.value == many.value == pytest.approx(1.0)
    assert many.noise == pytest.approx(few.noise / 4)


def test_one_round_is_never_certain() -> None:
    ratio = tuner.ratio_of([(0.95, 1.0)])
    assert ratio is not None
    assert not ratio.beats()


def test_options_say_what_the_candidate_is() -> None:
    assert Candidate(variant="int8", spinning="500 µs").session_options({}) == {"session.intra_op.spin_duration_us": "500"}
    candidate = Candidate(variant="int8", spinning="off", level="extended")
    assert candidate.session_options({"session.disable_quant_qdq": "1"}) == {
        "session.disable_quant_qdq": "1",
        "session.intra_op.allow_spinning": "0",
        "graph_optimization_level": "extended",
    }
    assert LITE.session_options({}) == {}
