"""What a run continues: whose folder and checkpoint, and with which of its settings."""
