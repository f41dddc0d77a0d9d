"""Sampling: noise schedules, noise levels, samplers and their steps."""
