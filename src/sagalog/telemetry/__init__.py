"""What others see of a running runner: metrics (`prometheus`), traces (`otel`), and probes over HTTP (`probes`).

Each is imported when it is used; the first two need the extra of their name.
"""
