"""Which models must leave a device when memory is short."""

from __future__ import annotations

from guardrail_plugin.pool.residents import Residents


def test_models_leave_in_the_order_of_their_last_use_until_the_rest_fits() -> None:
    residents = Residents(10)
    assert residents.came("d", "a", slot=0, nbytes=4) == []
    assert residents.came("d", "b", slot=0, nbytes=4) == []
    residents.used("d", "a")
    assert residents.came("d", "c", slot=0, nbytes=4) == ["b"]
    residents.left("d", "b", slot=0)
    assert residents.bytes_on("d") == 8
    assert residents.came("d", "b", slot=0, nbytes=9) == ["a", "c"]


def test_a_model_larger_than_the_device_is_let_in_alone() -> None:
    residents = Residents(10)
    residents.came("d", "a", slot=0, nbytes=3)
    assert residents.came("d", "huge", slot=0, nbytes=30) == ["a"]


def test_replicas_of_one_model_on_one_device_count_once() -> None:
    residents = Residents(10)
    residents.came("d", "a", slot=0, nbytes=6)
    assert residents.came("d", "a", slot=1, nbytes=6) == []
    assert residents.bytes_on("d") == 6
    residents.left("d", "a", slot=0)
    assert residents.bytes_on("d") == 6
    residents.left("d", "a", slot=1)
    assert residents.bytes_on("d") == 0


def test_devices_are_apart_and_without_a_bound_nobody_leaves() -> None:
    residents = Residents(10)
    residents.came("d", "a", slot=0, nbytes=8)
    assert residents.came("e", "b", slot=1, nbytes=8) == []
    assert residents.others("d", "x") == ["a"]
    unbounded = Residents()
    unbounded.came("d", "a", slot=0, nbytes=1 << 60)
    assert unbounded.came("d", "b", slot=0, nbytes=1 << 60) == []
    residents.left("nowhere", "a", slot=0)
    residents.used("nowhere", "a")
