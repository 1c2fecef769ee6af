"""What crosses the wire: envelopes, payloads, enums and the topic table. Imports nothing else of the service."""
