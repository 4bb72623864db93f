"""Analyzers: functions from a Problem, an Operator or masks to a frozen Result."""
