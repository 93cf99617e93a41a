"""Predicted against measured latency of real models on the machine at hand: before any fit, and after 20 measurements."""
