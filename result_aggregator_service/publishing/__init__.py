"""The way out: announcements into the outbox with the change that caused them, and from the outbox to Kafka."""
