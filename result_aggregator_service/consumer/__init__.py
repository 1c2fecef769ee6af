"""The way in: from Kafka's bytes to typed events or quarantine, one poll at a time."""
