"""Sagas that take the same things in different orders, across three services: `sagacore demo --contention`."""
