"""Materialize winners, measure and verify them, report."""
