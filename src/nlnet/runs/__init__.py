"""What a run is made of: its configuration, identity, callbacks, schedules and records."""
