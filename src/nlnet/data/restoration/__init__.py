"""Images that noise is added to, and that networks learn to restore."""
