"""The operator's page on the metrics port: how the service is, in numbers and words, without any id."""
