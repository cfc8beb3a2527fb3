"""cascade: a multi-stage cascade ranking engine under one latency budget."""
