"""Every architecture of a small space evaluated: how close does each sampler come to the true front?"""
