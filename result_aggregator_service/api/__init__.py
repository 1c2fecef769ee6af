"""HTTP: the internal API, health and metrics. Reads only; writes come from Kafka alone."""
